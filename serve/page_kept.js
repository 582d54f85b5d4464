// One's own picture outlasts Reload, Back and Forward: in this tab of the browser alone, until it is closed.
const KEPT = 'lfdeploy-picture', PLACE = location.pathname;
let newest = null;
const forget = () => {
  newest = null;
  try { sessionStorage.removeItem(KEPT); } catch (error) { /* a browser that keeps nothing */ }
};
// Two bytes in a character: such a store takes five million of them.
const packed = (bytes) => {
  const pairs = new Uint16Array(Math.ceil(bytes.length / 2)), texts = [];
  new Uint8Array(pairs.buffer).set(bytes);
  for (let at = 0; at < pairs.length; at += 8192) texts.push(String.fromCharCode(...pairs.subarray(at, at + 8192)));
  return texts.join('');
};
const unpacked = (text, size) => {
  const pairs = Uint16Array.from({ length: text.length }, (_, at) => text.charCodeAt(at));
  return new Uint8Array(pairs.buffer, 0, size);
};
const keep = async (file) => {
  forget();
  newest = file;
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (newest !== file) return;
    const about = JSON.stringify({ place: PLACE, name: file.name, type: file.type, size: bytes.length });
    sessionStorage.setItem(KEPT, `${about}\n${packed(bytes)}`);
  } catch (error) { forget(); } // larger than its store
};
const kept = () => {
  try {
    const text = sessionStorage.getItem(KEPT), end = text ? text.indexOf('\n') : -1;
    if (end < 0) return null;
    const about = JSON.parse(text.slice(0, end));
    if (about.place !== PLACE) return null;
    return new File([unpacked(text.slice(end + 1), about.size)], about.name, { type: about.type });
  } catch (error) { return null; }
};
