// Drawings: draw the beginning, see in how many ways it may go on.

import { h, slider } from "./ui.js";
import { box, picture, save, sheet } from "./strokes.js";

export function mount(place, info, changed, state) {
  const strokes = (state.strokes || []).map((stroke) => [...stroke]);
  const side = 1.5 * Math.max(info.width, info.height);
  const paper = sheet(side, side, strokes, changed);
  const heat = slider("temperature", { min: 0.05, max: 1.2, step: 0.05, value: state.temperature ?? 0.6, onchange: changed });
  const count = slider("how many", { min: 1, max: 12, step: 1, value: state.count ?? 6, onchange: changed });
  const tried = slider("latents tried", { min: 16, max: 2000, step: 16, value: state.tried ?? 64, onchange: changed });
  const gallery = h("div", { class: "gallery" });
  let now = [];
  const clear = (to = []) => { strokes.splice(0, strokes.length, ...to); paper.draw(); changed(); };
  const begin = (drawing) => {  // the first half of an example, in the middle of the sheet
    const [x, y, width, height] = box(drawing);
    const shift = [(side - width) / 2 - x, (side - height) / 2 - y];
    let left = Math.ceil(drawing.flat().length / 2);
    const kept = [];
    for (const stroke of drawing) {
      if (left > 0) kept.push(stroke.slice(0, left).map((p) => [Number((p[0] + shift[0]).toFixed(4)), Number((p[1] + shift[1]).toFixed(4))]));
      left -= stroke.length;
    }
    clear(kept);
  };
  place.append(
    h("p", { class: "how", text: "Draw a beginning on the sheet; the model goes on where the pen was lifted. The beginning is orange." }),
    h("div", { class: "row" }, h("button", { type: "button", text: "Empty sheet", onclick: () => clear() }),
      h("button", { type: "button", text: "Take back a stroke", onclick: () => clear(strokes.slice(0, -1)) }),
      h("button", { type: "button", text: "Save as SVG", onclick: () => save(now, "drawings.svg") })),
    info.examples.length ? h("div", { class: "row" }, h("span", { text: "Or begin as one it has not seen:" }), ...info.examples.map((drawing, k) =>
      h("button", { type: "button", class: "thumb", "aria-label": `Begin as held-out drawing ${k + 1}`, onclick: () => begin(drawing) }, picture(drawing)))) : "",
    heat.element, count.element, info.weighed ? tried.element : "",
    h("div", { class: "split" }, gallery, h("figure", { class: "joint" }, paper.element, h("figcaption", { text: "draw here" }))));
  return {
    samples: false,
    state: () => ({ strokes, temperature: heat.value, count: count.value, tried: tried.value }),
    question: () => ({ strokes, temperature: heat.value, count: count.value, tried: tried.value, step: info.step }),
    show(answer) {
      const [x, y] = answer.origin;
      const back = (drawing) => drawing.map((stroke) => stroke.map((p) => [p[0] + x, p[1] + y]));
      now = answer.drawings.map(back);
      gallery.replaceChildren(...now.map((drawing, k) => picture(drawing, back(answer.begun), `Way ${k + 1}`)));
    },
  };
}
