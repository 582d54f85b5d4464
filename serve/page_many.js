// Many pictures: a few in each request, a row as soon as each is answered, a line of the CSV for each, failed ones too.
const AT_ONCE = 32, MOST_BYTES = 80e6;
const cell = (text) => { const td = document.createElement('td'); td.textContent = text; return td; };
const quoted = (text) => {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};
const parts = (files) => {
  const found = [[]];
  let size = 0;
  files.forEach((file) => {
    if (found.at(-1).length >= AT_ONCE || size + file.size > MOST_BYTES) { found.push([]); size = 0; }
    found.at(-1).push(file);
    size += file.size;
  });
  return found.filter((part) => part.length);
};
// What is said of an answer beside its class.
const doubt = (told) => (told.unfamiliar ? 'unlike its training pictures: ' : told.abstain ? 'not sure: ' : told.probability < 0.5 ? 'perhaps ' : '');
const row = (file, told, place) => {
  const line = document.createElement('tr');
  line.dataset.place = place;
  const first = document.createElement('td');
  const image = document.createElement('img');
  image.alt = '';
  image.src = URL.createObjectURL(file);
  image.onload = () => URL.revokeObjectURL(image.src);
  image.onerror = () => { URL.revokeObjectURL(image.src); image.remove(); };
  first.append(image);
  const error = told.error && told.error.message;
  line.append(first, cell(file.name), cell(error || doubt(told) + told.label));
  if (error) { line.lastChild.colSpan = 2; line.className = 'lf-failed'; }
  else line.append(cell(`${(100 * told.probability).toFixed(1)} %`));
  return line;
};
const lines = async function* (response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const texts = (rest + value).split('\n');
    rest = texts.pop();
    yield* texts.map((text) => JSON.parse(text));
  }
};
const COLUMNS = ['file', 'label', 'probability', 'abstain', 'unfamiliar', 'notes', 'error', 'artifact', 'sha256'];
const columns = (file, told, key) => (told.error
  ? [file.name, '', '', '', '', '', told.error.message, key, '']
  : [file.name, told.label, told.probability, told.abstain ?? '', told.unfamiliar ?? '', told.notes.join('; '), '', told.artifact, told.sha256]);
const summary = (seen, total, key) => {
  const count = (what) => seen.filter(what).length;
  const failed = count((told) => told.error), odd = count((told) => told.unfamiliar), unsure = count((told) => told.abstain && !told.unfamiliar);
  const said = [`${seen.length - failed} of ${total} answered by ${key}`];
  if (odd) said.push(`${odd} unlike its training pictures`);
  if (unsure) said.push(`${unsure} not sure`);
  if (failed) said.push(`${failed} without an answer`);
  if (missed) said.push(`${missed} that came meanwhile not taken`);
  return said.join(', ');
};
let stopped = new AbortController(), missed = 0;
const many = async (files) => {
  const state = document.querySelector('#many-state'), table = document.querySelector('#many-table');
  const link = document.querySelector('#many-csv'), body = table.querySelector('tbody');
  const key = artifact(), csv = new Array(files.length), seen = [];
  stopped = new AbortController();
  body.replaceChildren();
  table.hidden = false;
  link.hidden = true;
  state.textContent = `0 of ${files.length} answered by ${key}`;
  const told = (place, answer) => {
    seen.push(answer);
    const after = Array.from(body.children).find((line) => Number(line.dataset.place) > place);
    body.insertBefore(row(files[place], answer, place), after || null);
    csv[place] = columns(files[place], answer, key).map((value) => quoted(String(value))).join(',');
    state.textContent = summary(seen, files.length, key);
  };
  const fits = [];
  files.forEach((file, place) => {
    if (file.size <= limit) fits.push({ file, place, size: file.size });
    else told(place, { error: { message: `It has ${(file.size / 1e6).toFixed(1)} MB; at most ${LIMIT} MB are accepted.` } });
  });
  for (const whole of parts(fits)) {
    const part = [];
    for (const each of whole) {
      const problem = await unread(each.file); // one such file would take its whole request with it
      if (problem) told(each.place, { error: { message: problem } }); else part.push(each);
    }
    if (!part.length) continue;
    const form = new FormData(), answered = new Set();
    part.forEach(({ file }) => form.append('file', file, file.name));
    let problem = 'The server sent no answer.';
    try {
      const response = await fetch(`v1/batch?top=1&artifact=${encodeURIComponent(key)}`, { method: 'POST', body: form, signal: stopped.signal });
      if (response.ok) { for await (const line of lines(response)) { answered.add(line.index); told(part[line.index].place, line); } }
      else problem = (await response.json()).error.message;
    } catch (error) { problem = stopped.signal.aborted ? 'Stopped before it was answered.' : 'The server does not answer.'; }
    part.forEach(({ place }, index) => { if (!answered.has(index)) told(place, { error: { message: problem } }); });
  }
  link.href = URL.createObjectURL(new Blob([`${COLUMNS.join(',')}\n${csv.join('\n')}\n`], { type: 'text/csv' }));
  link.download = `answers by ${key.replaceAll('/', ' ')}.csv`;
  link.hidden = false;
};
const several = (files) => {
  const chooser = document.querySelector('#many-files'), stop = document.querySelector('#many-stop');
  if (chooser.disabled) {
    const state = document.querySelector('#many-state');
    missed += files.length;
    state.textContent = `${state.textContent.replace(/, \d+ that came meanwhile not taken$/, '')}, ${missed} that came meanwhile not taken`;
    return;
  }
  missed = 0;
  document.querySelector('#many').open = true;
  stop.hidden = false;
  if (document.activeElement === chooser) stop.focus({ preventScroll: true }); // what is disabled loses the focus, to nobody
  chooser.disabled = true;
  many(Array.from(files)).finally(() => {
    const held = document.activeElement === stop;
    chooser.disabled = false;
    chooser.value = '';
    stop.hidden = true;
    if (held) document.querySelector('#many-csv').focus({ preventScroll: true });
  });
  document.querySelector('#many').scrollIntoView({ block: 'nearest' });
};
document.addEventListener('change', (event) => {
  if (event.target && event.target.id === 'many-files' && event.target.files.length) several(event.target.files);
});
