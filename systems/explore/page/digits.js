// Pictures: paint known pixels with ink or paper, rub out what is to be unknown, and see what the rest may be.

import { draggable, h, rounded } from "./ui.js";
import { bars, statements } from "./table.js";

export function mount(place, info, changed, state) {
  const [rows, columns] = info.shape;
  let known = { ...(state.known || {}) }, tool = "ink", answer = null, cursor = 0;
  const typed = statements(changed, state.typed || []);
  const shares = Object.entries(info.categories).map(([name, values]) => bars(name, values));
  const tools = ["ink", "paper", "unknown"].map((name) => h("button", { type: "button", text: name, "aria-pressed": String(name === tool),
    onclick: () => { tool = name; for (const b of tools) b.setAttribute("aria-pressed", String(b.textContent === tool)); } }));
  const paper = picture("paint", "Paint here: known pixels are framed; arrow keys move, Space paints, Delete rubs out");
  paper.setAttribute("tabindex", 0);
  paper.setAttribute("role", "application");
  const mean = picture("", "Mean of the answer"), certain = picture("", "How uncertain each pixel is");
  const samples = h("div", { class: "samples" });

  function picture(id, label) {
    return h("canvas", { id: id || null, width: columns * 16, height: rows * 16, class: "pixels", role: "img", "aria-label": label });
  }
  function shade(value) { return Math.round(255 * (1 - Math.min(1, Math.max(0, (value - info.low) / (info.high - info.low || 1))))); }
  function draw(canvas, values, grey) {
    const context = canvas.getContext("2d");
    values.forEach((value, i) => {
      const v = grey(value);
      context.fillStyle = typeof v === "string" ? v : `rgb(${v},${v},${v})`;
      context.fillRect(i % columns * 16, Math.floor(i / columns) * 16, 16, 16);
    });
    return context;
  }
  function redraw() {
    const base = answer ? answer.mean : Array(rows * columns).fill(info.low);
    const context = draw(paper, base.map((v, i) => (i in known ? known[i] : v)), shade);
    context.strokeStyle = "#d9480f";
    context.lineWidth = 2;
    for (const i of Object.keys(known)) context.strokeRect(i % columns * 16 + 1, Math.floor(i / columns) * 16 + 1, 14, 14);
    if (document.activeElement === paper) {
      context.strokeStyle = "#0b62c4";
      context.strokeRect(cursor % columns * 16 + 1, Math.floor(cursor / columns) * 16 + 1, 14, 14);
    }
  }
  function put(i) {
    const before = JSON.stringify(known[i]);
    if (tool === "unknown") delete known[i];
    else known[i] = rounded(tool === "ink" ? info.high : info.low, info.low, info.high);
    if (JSON.stringify(known[i]) !== before) { redraw(); changed(); }
  }
  const paint = (x, y) => {
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return;
    put(Math.floor(y * rows) * columns + Math.floor(x * columns));
  };
  draggable(paper, { begin: (x, y) => { paper.focus(); paint(x, y); return {}; }, move: (x, y) => paint(x, y) });
  paper.addEventListener("focus", redraw);
  paper.addEventListener("blur", redraw);
  paper.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (step && cursor + step >= 0 && cursor + step < rows * columns) { cursor += step; redraw(); }
    else if (event.key === " ") put(cursor);
    else if (event.key === "Delete" || event.key === "Backspace") { delete known[cursor]; redraw(); changed(); }
    else return;
    event.preventDefault();
  });
  const examples = info.examples.length ? h("div", { class: "row" }, h("span", { text: "Take the upper half of one it has not seen:" }),
    ...info.examples.map((values, k) => {
      const canvas = picture("", `Take the upper half of held-out picture ${k + 1}`);
      draw(canvas, values, shade);
      return h("button", { type: "button", class: "thumb", "aria-label": `Upper half of held-out picture ${k + 1}`, onclick: () => {
        known = Object.fromEntries(values.slice(0, Math.floor(rows / 2) * columns).map((v, i) => [i, v]));
        redraw();
        changed();
      } }, canvas);
    })) : null;
  place.append(
    h("p", { class: "how", text: "Paint pixels that are known (framed); the others show what is expected. Lighter in the map of "
      + "uncertainty is more certain." }),
    h("div", { class: "row" }, ...tools, h("button", { type: "button", text: "nothing known", onclick: () => { known = {}; redraw(); changed(); } })),
    examples, typed.element,
    h("div", { class: "split" }, h("div", { class: "trio" },
      h("figure", {}, paper, h("figcaption", { text: "paint here" })), h("figure", {}, mean, h("figcaption", { text: "mean" })),
      h("figure", {}, certain, h("figcaption", { text: "uncertainty (sd)" }))),
    h("div", { class: "strips" }, ...shares.map((one) => one.element))),
    h("h2", { text: "Completions" }), samples);
  redraw();
  return {
    state: () => ({ known, typed: typed.value() }),
    question: () => ({ known, typed: typed.value() }),
    show(now) {
      answer = now;
      typed.show(now.said);
      redraw();
      draw(mean, now.mean, shade);
      draw(certain, now.sd, (sd) => Math.round(255 * (1 - Math.min(1, sd / info.sd))));
      for (const one of shares) one.show(now.categories[one.name] || []);
      samples.replaceChildren(...now.drawn.map((values, k) => {
        const canvas = picture("", `Completion ${k + 1}`);
        draw(canvas, values, shade);
        return canvas;
      }));
      const count = Object.keys(known).length;
      if (!now.said.length) place.querySelector("#said").textContent = count ? `Given ${count} of ${rows * columns} pixels` : "Nothing is known yet.";
    },
  };
}
