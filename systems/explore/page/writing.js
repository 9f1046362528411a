// Handwriting: type a text, choose how neat and in whose hand, save the lines.

import { h, slider } from "./ui.js";
import { picture, save } from "./strokes.js";

export function mount(place, info, changed, state) {
  const text = h("input", { id: "text", type: "text", size: 36, maxlength: 60, value: state.text ?? info.text, "aria-label": "Text to write", spellcheck: "false" });
  const bias = slider("neatness (bias)", { min: 0, max: 4, step: 0.1, value: state.bias ?? 1, onchange: changed });
  const count = slider("lines", { min: 1, max: 6, step: 1, value: state.count ?? 3, onchange: changed });
  const lines = h("div", { class: "lines" });
  let hand = state.hand ?? null, now = [];
  text.addEventListener("input", changed);
  const hands = [null, ...info.hands.keys()].map((k) => h("button", { type: "button", class: "hand", "aria-pressed": String(k === hand),
    "aria-label": k === null ? "No hand in particular" : `Hand ${k + 1}`, onclick: () => {
      hand = k;
      hands.forEach((b, i) => b.setAttribute("aria-pressed", String((i ? i - 1 : null) === k)));
      changed();
    } }, k === null ? "none in particular" : picture(info.hands[k].strokes, [], info.hands[k].text)));
  place.append(
    h("p", { class: "how", text: `Type a text of these characters: ${info.alphabet.replace(" ", "space ")}` }),
    h("div", { class: "row" }, text, h("button", { type: "button", text: "Save as SVG", onclick: () => save(now, "writing.svg") })),
    bias.element, count.element,
    info.hands.length ? h("div", { class: "row", role: "group", "aria-label": "Hand" }, h("span", { text: "In the hand of" }), ...hands) : "",
    h("div", { class: "stage" }, lines));
  return {
    samples: false,
    idle: () => !text.value,
    state: () => ({ text: text.value, bias: bias.value, count: count.value, hand }),
    question: () => ({ text: text.value, bias: bias.value, count: count.value,
      hand: hand === null ? null : { steps: info.hands[hand].steps, text: info.hands[hand].text } }),
    show(answer) {
      now = answer.drawings;
      lines.replaceChildren(...now.map((drawing, k) => picture(drawing, [], `Line ${k + 1}`)));
    },
  };
}
