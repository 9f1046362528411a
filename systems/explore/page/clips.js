// Every action with every person: choose a cell, scrub through time.

import { h } from "./ui.js";
import { canvas, decode, draw, player } from "./frames.js";

export function mount(place, info, changed, state) {
  let first = state.first ?? 0, who = state.who ?? 0, what = state.what ?? 0, grid = null, clips = null;
  const table = h("div", { class: "swap" });
  const large = canvas(32, 32, "The chosen person in the chosen action", { id: "chosen" });
  const words = h("figcaption", { id: "pair" });
  const cells = [];
  const time = player((t) => paint(t));
  const n = () => clips.shape[0];
  const length = () => clips.shape[1];

  function paint(t) {
    if (!grid) return;
    for (const { element, source, k } of cells) draw(element, source === "grid" ? grid : clips, k * length() + t);
    draw(large, grid, (what * n() + who) * length() + t);
    words.textContent = `the action of clip ${what + 1} by the person of clip ${who + 1}`;
  }
  function choose(i, j) {
    [what, who] = [i, j];
    for (const cell of cells) cell.holder?.setAttribute("aria-pressed", String(cell.i === what && cell.j === who));
    paint(time.frame);
    changed();
  }
  function cell(source, k, i, j) {
    const element = canvas(32, 32, source === "grid" ? "" : `Clip ${k + 1} of the data`);
    const holder = source === "grid" ? h("button", { type: "button", class: "cell", "aria-pressed": String(i === what && j === who),
      "aria-label": `The action of clip ${i + 1} by the person of clip ${j + 1}`, onclick: () => choose(i, j) }, element) : null;
    cells.push({ element, source, k, i, j, holder });
    return holder || element;
  }
  function build() {
    cells.length = 0;
    table.style.gridTemplateColumns = `repeat(${n() + 1}, minmax(0, 1fr))`;
    const parts = [h("span", { class: "quiet", text: "action ↓ person →" })];
    for (let j = 0; j < n(); j += 1) parts.push(cell("clips", j));
    for (let i = 0; i < n(); i += 1) {
      parts.push(cell("clips", i));
      for (let j = 0; j < n(); j += 1) parts.push(cell("grid", i * n() + j, i, j));
    }
    table.replaceChildren(...parts);
  }
  place.append(
    h("p", { class: "how", text: "Rows take the action from the clip at their left, columns the person from the clip on top; none of "
      + "these combinations need be in the data. Choose one, and scrub." }),
    h("div", { class: "row" }, h("button", { type: "button", text: "Other clips", onclick: () => { first = (first + 5) % info.clips; changed(); } })),
    time.element, h("div", { class: "split" }, table, h("figure", { class: "joint" }, large, words)));
  let shown = null;
  return {
    samples: false,
    state: () => ({ first, who, what }),
    idle: () => shown === first,  // choosing and scrubbing need no new answer
    question: () => ({ first }),
    show(answer) {
      shown = first;
      [grid, clips] = [decode(answer.grid), decode(answer.clips)];
      who = Math.min(who, n() - 1);
      what = Math.min(what, n() - 1);
      build();
      time.set(length());
    },
  };
}
