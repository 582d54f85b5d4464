// Runs once, with `element` the place of the answer and `props.value` its HTML.
// A picture may be dropped or pasted anywhere; every file goes to the server's own decoder, which says what is wrong with it.
const limit = props.limit * 1e6;

const escaped = (text) => { const p = document.createElement('p'); p.textContent = text; return p.innerHTML; };
const refuse = (text) => {
  props.value = `<div class="lf-error" role="status"><h2>No answer</h2><p>${escaped(text)}</p></div>`;
};
const input = () => document.querySelector('#photo input[type=file]');

const tooLarge = (file) => {
  if (file.size <= limit) return false;
  refuse(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${props.limit} MB are accepted. Scale it down.`);
  return true;
};

const take = (files) => {
  const file = files[0];
  if (!file || tooLarge(file)) return;
  const target = input();
  if (!target) { refuse('Remove the picture first, or leave the camera, then drop another one.'); return; }
  const data = new DataTransfer();
  data.items.add(file);
  target.files = data.files;
  target.dispatchEvent(new Event('change', { bubbles: true }));
};

document.addEventListener('change', (event) => {
  const target = event.target;
  if (!target || target !== input() || !target.files || !target.files[0]) return;
  if (tooLarge(target.files[0])) { event.stopImmediatePropagation(); target.value = ''; }
}, true);

const hasFiles = (event) => event.dataTransfer && Array.from(event.dataTransfer.types).includes('Files');
document.addEventListener('dragover', (event) => { if (hasFiles(event)) event.preventDefault(); }, true);
document.addEventListener('drop', (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  take(event.dataTransfer.files);
}, true);
document.addEventListener('paste', (event) => {
  if (event.clipboardData && event.clipboardData.files.length) { event.preventDefault(); take(event.clipboardData.files); }
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

// Gradio's thumbnails have no name of their own.
const name = () => document.querySelectorAll('#examples .gallery-item').forEach((button, index) => {
  button.setAttribute('aria-label', `Test picture ${index + 1}`);
});
setTimeout(name, 0);
new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
