// What scrolls can be reached by the keyboard, and headings of the navigation say their level.
document.addEventListener('DOMContentLoaded', () => {
  for (const e of document.querySelectorAll('pre, .table-wrapper, .math, .phlogiston-card, .cell_output figure')) {
    e.tabIndex = 0;
  }
  for (const e of document.querySelectorAll('[role=heading]:not([aria-level])')) {
    e.setAttribute('aria-level', '2');
  }
});
