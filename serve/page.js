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
const input = () => document.querySelector('#photo input[type=file]');

const tooLarge = (file) => {
  if (file.size <= limit) return false;
  refuse(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${LIMIT} MB are accepted. Scale it down.`);
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
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else refuse('That is the address of a picture, and this page fetches nothing. Save the picture, then drop the file.');
}, true);
document.addEventListener('paste', (event) => {
  if (!event.clipboardData || event.target.closest('input:not([type=file]), textarea')) return;
  event.preventDefault();
  if (event.clipboardData.files.length) take(event.clipboardData.files);
  else refuse('There is no picture in what was pasted. Copy a picture itself, or choose a file.');
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
};
setTimeout(follow, 0);
setTimeout(() => { followed = true; compared = compared || !document.querySelector('#photo img'); follow(); }, 3000); // the address may name something that is not served here
new MutationObserver(follow).observe(document.body, { childList: true, subtree: true });
document.addEventListener('click', (event) => {
  const button = event.target.closest && event.target.closest('#examples .gallery-item, #photo button');
  if (!button) return;
  const number = Array.from(document.querySelectorAll('#examples .gallery-item')).indexOf(button);
  if (number >= 0 || button.getAttribute('aria-label') === 'Remove Image') wait();
  if (number >= 0) link('example', String(number + 1));
  else if (button.getAttribute('aria-label') === 'Remove Image') link('example', '');
}, true);

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
  return said.join(', ');
};
let stopped = new AbortController();
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
  for (const part of parts(fits)) {
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
  if (chooser.disabled) return;
  document.querySelector('#many').open = true;
  chooser.disabled = true;
  stop.hidden = false;
  many(Array.from(files)).finally(() => { chooser.disabled = false; chooser.value = ''; stop.hidden = true; });
  document.querySelector('#many').scrollIntoView({ block: 'nearest' });
};
document.addEventListener('change', (event) => {
  if (event.target && event.target.id === 'many-files' && event.target.files.length) several(event.target.files);
});

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
