// What a reader of a notebook in JupyterLab would mind, on the screen that is shown: called by tests/lab.py
(() => {
  const panel = () => document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)');
  const outer = () => panel().querySelector('.jp-WindowedPanel-outer') || panel().querySelector('.jp-Notebook');
  const text = o => (o.innerText || o.textContent || '').trim().replace(/\s+/g, ' ').slice(0, 100);
  const onScreen = o => {
    const r = o.getBoundingClientRect();
    return r.width > 0 && r.bottom > 0 && r.top < window.innerHeight;
  };

  // Number of colours of a picture, on a small copy of it
  const colours = img => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 48;
    const context = canvas.getContext('2d');
    context.drawImage(img, 0, 0, 48, 48);
    const data = new Uint32Array(context.getImageData(0, 0, 48, 48).data.buffer);
    return new Set(data).size;
  };

  const pictures = function* () {
    for (const img of panel().querySelectorAll('.jp-Cell img')) {
      if (!onScreen(img)) continue;
      const name = img.alt.slice(0, 40) || img.src.slice(0, 40);
      if (!img.complete || !img.naturalWidth) yield `a picture was not loaded: ${name}`;
      else if (colours(img) < 2) yield `a picture is of one colour: ${name}`;
      const scale = img.getBoundingClientRect().width / img.naturalWidth;
      if (scale < .8) yield `a picture of ${img.naturalWidth} px is shown at ${Math.round(100 * scale)} %: ${name}`;
    }
  };

  // Text, code, tables: nothing may be wider than the place it has
  const wide = function* () {
    const edge = outer().getBoundingClientRect().right;
    const parts = '.jp-RenderedMarkdown, .jp-RenderedMarkdown pre, .cm-scroller, .jp-OutputArea-output, .jp-OutputArea-output *';
    for (const o of panel().querySelectorAll(parts)) {
      if (!onScreen(o) || o.closest('mjx-assistive-mml, .jupyter-widgets')) continue;
      const by = o.scrollWidth - o.clientWidth;
      const scrolls = ['auto', 'scroll', 'hidden'].includes(getComputedStyle(o).overflowX);
      if (scrolls && by > 1 && o.clientWidth > 0) yield `${by} px wider than its place: ${text(o)}`;
      const over = Math.round(o.getBoundingClientRect().right - edge);
      if (over > 1) yield `${over} px beyond the edge of the page: ${text(o)}`;
    }
  };

  // Lines of code in a text are not scrolled but broken, which is as hard to read
  const broken = function* () {
    for (const pre of panel().querySelectorAll('.jp-RenderedMarkdown pre')) {
      if (!onScreen(pre)) continue;
      const style = getComputedStyle(pre);
      const padding = parseFloat(style.paddingTop) + parseFloat(style.paddingBottom);
      const lines = pre.textContent.trimEnd().split('\n');
      const shown = Math.round((pre.clientHeight - padding)/parseFloat(style.lineHeight));
      const longest = lines.reduce((a, b) => a.length > b.length ? a : b);
      if (shown > lines.length) yield `${shown - lines.length} lines of code are broken: ${longest}`;
    }
  };

  const tiny = function* () {
    for (const o of panel().querySelectorAll('.jp-RenderedMarkdown *, .jp-OutputArea-output *')) {
      if (!onScreen(o) || o.closest('svg, .jupyter-widgets, mjx-container, sup, sub')) continue;
      const own = [...o.childNodes].some(p => p.nodeType === Node.TEXT_NODE && p.textContent.trim());
      const size = parseFloat(getComputedStyle(o).fontSize);
      if (own && size < 10) yield `text of ${size} px: ${text(o)}`;
    }
  };

  // What is left of a bar: one that is not full, or blocks of a bar drawn in characters
  const bars = function* () {
    for (const o of panel().querySelectorAll('.jp-OutputArea progress')) {
      if (o.value < o.max) yield `a bar stands at ${o.value} of ${o.max}`;
    }
    for (const o of panel().querySelectorAll('.jp-OutputArea-output')) {
      const left = text(o).match(/\d+%\|.*[█▏▎▍▌▋▊▉ ]\|/);
      if (left && !left[0].startsWith('100%')) yield `a bar is left: ${left[0]}`;
    }
  };

  return {
    scroll: to => {
      outer().scrollTop = to;
      const last = [...panel().querySelectorAll('.jp-Cell')].at(-1);
      return last.getBoundingClientRect().bottom > outer().getBoundingClientRect().bottom;
    },
    look: () => [...pictures(), ...wide(), ...broken(), ...tiny(), ...bars()],
  };
})()
