// Runs once; `LIMIT`, the largest upload in MB, stands before it.
// A picture may be dropped or pasted anywhere; every file goes to the server's own decoder, which says what is wrong with it.
const limit = LIMIT * 1e6;

const escaped = (text) => { const p = document.createElement('p'); p.textContent = text; return p.innerHTML; };
const show = (html) => {
  const place = document.querySelector('#answer [role=status]');
  if (place) place.parentElement.innerHTML = html;
};
const refuse = (text) => {
  show(`<div class="lf-error" role="status"><h2>No answer</h2><p>${escaped(text)}</p></div>`);
};
// What is only remarked stands above what is there, also when Gradio then draws the answer anew: until another is asked for.
let remark = null;
const remind = () => {
  const place = document.querySelector('#answer [role=status]');
  if (!place || !remark || place.contains(remark)) return;
  place.querySelectorAll('.lf-mention').forEach((old) => old.remove());
  place.prepend(remark);
};
const mention = (text) => {
  remark = document.createElement('p');
  remark.className = 'lf-note lf-mention';
  remark.textContent = text;
  remind();
};
// Why a file cannot be read; empty where it can.
const folders = new WeakSet();
const unread = async (file) => {
  if (folders.has(file)) return 'It is a folder. Choose the pictures in it.';
  try { await file.slice(0, 1).arrayBuffer(); return ''; } catch (error) {
    return 'It cannot be read: it was moved or changed after it was chosen. Choose it again.';
  }
};
const input = () => document.querySelector('#photo input[type=file]');

const tooLarge = (file) => {
  if (file.size <= limit) return false;
  mention(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${LIMIT} MB are accepted. Scale it down.`);
  return true;
};

// Gradio has a place to put a file into only while it shows none.
const emptied = async () => {
  for (let tries = 0; tries < 40 && !input(); tries += 1) {
    const remove = document.querySelector('#photo button[aria-label="Remove Image"]');
    if (remove) remove.click();
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  return input();
};
const take = async (files) => {
  if (files.length > 1) { several(files); return; }
  const file = files[0];
  if (!file || tooLarge(file)) return;
  const why = await unread(file);
  if (why) { mention(`${file.name}: ${why}`); return; }
  const target = await emptied();
  if (!target) { refuse('Leave the camera, then drop the picture again.'); return; }
  const data = new DataTransfer();
  data.items.add(file);
  target.files = data.files;
  target.dispatchEvent(new Event('change', { bubbles: true }));
};

// An answer that is out of date is dimmed until the next one is there, whoever brings it.
const STALE = 4000, PATIENCE = 40;
const old = new WeakMap(), renewed = new WeakMap();
let waits = 0;
const arrived = (target) => { target.classList.remove('lf-waiting'); target.removeAttribute('aria-busy'); };
const wait = (place = '#answer') => {
  const target = document.querySelector(place), number = waits += 1;
  if (place === '#answer') remark = null;
  if (!target) return;
  old.set(target, target.querySelector('[role=status], figure'));
  target.classList.add('lf-waiting');
  target.setAttribute('aria-busy', 'true');
  const check = async (times) => {
    if (number !== waits || !target.classList.contains('lf-waiting')) return;
    try {
      await fetch('health/live', { cache: 'no-store' });
      const failed = document.querySelector('.toast-body.error');
      if (times < PATIENCE && !failed) { setTimeout(check, STALE / 4, times + 1); return; }
      arrived(target);
      if (place === '#answer') refuse('The server could not answer this. Choose the picture again.');
    } catch (error) {
      arrived(target);
      if (place === '#answer') refuse('The server does not answer. Try again when it does.');
    }
  };
  setTimeout(check, STALE / 4, 1);
};
new MutationObserver((changes) => {
  changes.forEach((change) => {
    const target = change.target.closest && change.target.closest('#answer, #why');
    if (!target || (old.get(target) && old.get(target).isConnected)) return;
    renewed.set(target, performance.now());
    old.set(target, target.querySelector('[role=status], figure'));
    arrived(target);
    if (target.id === 'answer') remind();
  });
}).observe(document.body, { childList: true, subtree: true });
// Another artifact is another answer; Gradio says nothing of it here, but the fields show it.
const PICKERS = ['#picker', '#other'], chosen = {};
const reconsider = (asks, since) => PICKERS.forEach((name) => {
  const field = document.querySelector(`${name} input`), answer = document.querySelector('#answer');
  if (!field || !field.value || field.value === chosen[name]) return;
  chosen[name] = field.value;
  if (asks && document.querySelector('#photo img') && !(renewed.get(answer) > since)) wait();
});
['click', 'keydown', 'focusout'].forEach((kind) => document.addEventListener(kind, (event) => {
  const asks = Boolean(event.target.closest && event.target.closest(PICKERS.join(', ')));
  setTimeout(reconsider, 60, asks, performance.now());
}));
setTimeout(reconsider, 0, false, 0);

// The answer does not wait until Gradio has put the picture in its place; the server remembers it until then.
let asked = 0;
const ask = async (file) => {
  const number = asked += 1, key = artifact(), other = document.querySelector('#other input');
  if (!key || (other && other.value !== 'no other')) return;
  try {
    const response = await fetch(`v1/classify?artifact=${encodeURIComponent(key)}`, { method: 'POST', body: file, headers: { Accept: 'text/html' } });
    const told = response.ok ? await response.text() : (await response.json()).error.message;
    if (number !== asked || key !== artifact()) return;
    if (response.ok) show(told); else if (response.status < 429) refuse(told);
  } catch (error) { /* Gradio's own way says what is wrong */ }
};
// Gradio gets the file when the answer is there, or after a moment: both at once would make the answer wait.
const HEAD_START = 300, passed = new WeakSet();
document.addEventListener('change', (event) => {
  const target = event.target;
  if (!target || target !== input() || !target.files || !target.files[0] || passed.has(event)) return;
  event.stopImmediatePropagation();
  if (tooLarge(target.files[0])) { target.value = ''; return; }
  link('example', '');
  keep(target.files[0]);
  wait();
  const late = new Promise((resolve) => setTimeout(resolve, HEAD_START));
  Promise.race([ask(target.files[0]), late]).then(() => {
    const again = new Event('change', { bubbles: true });
    passed.add(again);
    target.dispatchEvent(again);
  });
}, true);

// A picture dragged from another page may come as its address alone, which nobody here fetches.
const holds = (event, kind) => Boolean(event.dataTransfer) && Array.from(event.dataTransfer.types).includes(kind);
const dropped = (event) => holds(event, 'Files') || holds(event, 'text/uri-list');
document.addEventListener('dragover', (event) => { if (dropped(event)) event.preventDefault(); }, true);
document.addEventListener('drop', (event) => {
  if (!dropped(event)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const files = Array.from(event.dataTransfer.items).filter((item) => item.kind === 'file').map((item) => {
    const file = item.getAsFile(), entry = item.webkitGetAsEntry && item.webkitGetAsEntry();
    if (file && entry && entry.isDirectory) folders.add(file);
    return file;
  }).filter(Boolean);
  if (files.length) take(files);
  else mention('That is the address of a picture, and this page fetches nothing. Save the picture, then drop the file.');
}, true);
document.addEventListener('paste', (event) => {
  if (!event.clipboardData) return;
  const { files } = event.clipboardData;
  if (!files.length && event.target.closest('input:not([type=file]), textarea')) return; // text for a field
  event.preventDefault();
  if (files.length) take(files);
  else mention('There is no picture in what was pasted. Copy a picture itself, or choose a file.');
}, true);

// A file the browser cannot draw (a TIFF, or a damaged one) has no preview; small pictures show their pixels.
const drawn = (event) => {
  const image = event.target;
  if (!(image instanceof HTMLImageElement) || !image.closest('#photo')) return;
  const photo = document.querySelector('#photo');
  photo.classList.toggle('lf-nopreview', event.type === 'error');
  photo.classList.toggle('lf-pixels', event.type === 'load' && image.naturalWidth < 100);
};
document.addEventListener('load', drawn, true);
document.addEventListener('error', drawn, true);

// The model sees the largest centred square: what is outside is dimmed.
const crop = () => {
  const photo = document.querySelector('#photo'), image = photo && photo.querySelector('img');
  let frame = document.querySelector('#lf-crop');
  const wide = image && image.complete ? image.naturalWidth / image.naturalHeight : 1;
  if (!photo || !image || !image.isConnected || !(Math.abs(wide - 1) > 0.02)) { if (frame) frame.remove(); return; }
  if (!frame) {
    frame = document.createElement('div');
    frame.id = 'lf-crop';
    frame.title = 'The model sees this square';
    photo.append(frame);
  }
  const outer = photo.getBoundingClientRect(), box = image.getBoundingClientRect();
  const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale], side = Math.min(width, height);
  const style = {
    left: box.left - outer.left - photo.clientLeft + (box.width - width) / 2, top: box.top - outer.top - photo.clientTop + (box.height - height) / 2,
    width, height,
  };
  Object.entries(style).forEach(([key, value]) => { if (frame.style[key] !== `${value}px`) frame.style[key] = `${value}px`; });
  const sides = width > height ? `0 ${(width - side) / 2}px` : `${(height - side) / 2}px 0`;
  if (frame.style.borderWidth !== sides) frame.style.borderWidth = sides;
};
document.addEventListener('load', (event) => { if (event.target instanceof HTMLImageElement) crop(); }, true);
window.addEventListener('resize', crop);
new MutationObserver(crop).observe(document.body, { childList: true, subtree: true });

// Gradio's thumbnails have neither a name of their own nor the true class.
const name = () => {
  const truth = Array.from(document.querySelectorAll('#truth li'), (item) => item.textContent);
  document.querySelectorAll('#examples .gallery-item').forEach((button, index) => {
    if (button.querySelector('.lf-truth') || !truth[index]) return;
    button.setAttribute('aria-label', `Test picture ${index + 1}: ${truth[index]}`);
    button.title = `Its true class: ${truth[index]}`;
    const caption = document.createElement('span');
    caption.className = 'lf-truth';
    caption.textContent = truth[index];
    button.append(caption);
  });
};
// Its buttons have names for those who hear them; those who see them get the same.
const hints = () => document.querySelectorAll('#photo button[aria-label]:not([title])').forEach((button) => {
  if (button.innerText.trim()) button.setAttribute('aria-label', button.innerText.trim());
  button.title = button.getAttribute('aria-label');
});
new MutationObserver(hints).observe(document.body, { childList: true, subtree: true });
setTimeout(name, 0);
new MutationObserver(name).observe(document.body, { childList: true, subtree: true });

// How programs ask, with this server's own address.
const artifact = () => { const place = document.querySelector('#foot [data-artifact]'); return place ? place.dataset.artifact : ''; };
const addresses = () => {
  const base = new URL('.', location.href).href.replace(/\/$/, '');
  document.querySelectorAll('.lf-origin').forEach((place) => { if (place.textContent !== base) place.textContent = base; });
  const host = base.replace(/^https?:\/\//, ''), key = artifact();
  const fill = (name, text) => document.querySelectorAll(name).forEach((place) => { if (place.textContent !== text) place.textContent = text; });
  fill('.lf-host', host);
  fill('.lf-key', key);
  fill('.lf-coded-key', encodeURIComponent(key));
};
setTimeout(addresses, 0);
new MutationObserver(addresses).observe(document.body, { childList: true, subtree: true });

// The address is a link to what is seen: the artifact, where there are several, and the test picture.
const link = (name, value) => {
  const query = new URLSearchParams(location.search);
  if (value) query.set(name, value); else query.delete(name);
  if (query.toString() !== new URLSearchParams(location.search).toString()) {
    history.replaceState(null, '', query.toString() ? `?${query}` : location.pathname);
  }
};
const linked = new URLSearchParams(location.search);
let own = linked.get('example') ? null : kept();
let followed = !linked.get('artifact'), compared = !linked.get('compare'), tried = !linked.get('example');
const follow = () => {
  const key = artifact();
  followed = followed || key === linked.get('artifact');
  if (followed && key && document.querySelector('#other')) {
    link('artifact', key);
    const beside = document.querySelector('.lf-compare[data-other]'), other = document.querySelector('#other input');
    compared = compared || Boolean(beside);
    if (beside) link('compare', beside.dataset.other); else if (compared && other && other.value === 'no other') link('compare', '');
  }
  const button = document.querySelectorAll('#examples .gallery-item')[Number(linked.get('example')) - 1];
  if (!tried && followed && button) { tried = true; button.click(); }
  if (own && followed && key && input()) { const file = own; own = null; take([file]); }
};
setTimeout(follow, 0);
// The address may name something that is not served here.
setTimeout(() => {
  const lacks = [];
  if (!followed && artifact()) lacks.push(`no artifact '${linked.get('artifact')}' here: ${artifact()} answers`);
  followed = true;
  compared = compared || !document.querySelector('#photo img');
  follow();
  if (!tried) lacks.push(`no test picture ${linked.get('example')} here`);
  if (lacks.length) mention(`There is ${lacks.join(', and ')}.`);
}, 3000);
new MutationObserver(follow).observe(document.body, { childList: true, subtree: true });
document.addEventListener('click', (event) => {
  const button = event.target.closest && event.target.closest('#examples .gallery-item, #photo button');
  if (!button) return;
  const number = Array.from(document.querySelectorAll('#examples .gallery-item')).indexOf(button);
  if (number >= 0 || button.getAttribute('aria-label') === 'Remove Image') { forget(); wait(); }
  if (number >= 0) link('example', String(number + 1));
  else if (button.getAttribute('aria-label') === 'Remove Image') { link('example', ''); refocus(); }
}, true);
// With the picture its button goes, and the keyboard's place with that.
const refocus = (tries = 40) => setTimeout(() => {
  const target = input() && document.querySelector('#photo button');
  if (document.activeElement && document.activeElement !== document.body) return;
  if (target) target.focus({ preventScroll: true }); else if (tries) refocus(tries - 1);
}, 25);

// The page's own buttons: to stop, to copy what stands beside one, and to ask why.
document.addEventListener('click', (event) => {
  const button = event.target.closest && event.target.closest('#many-stop, .lf-copy, #ask-why');
  if (!button) return;
  if (button.id === 'many-stop') stopped.abort();
  else if (button.id === 'ask-why') wait('#why');
  else {
    const text = button.parentElement.querySelector('code');
    const done = () => { button.textContent = 'Copied'; setTimeout(() => { button.textContent = 'Copy'; }, 1500); };
    if (navigator.clipboard) navigator.clipboard.writeText(text.textContent).then(done);
    else getSelection().selectAllChildren(text);
  }
});
