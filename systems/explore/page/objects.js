// Moving objects: boxes with identities over a video; choose one, remove, move or freeze it, and roll the scene forward.

import { draggable, h, slider } from "./ui.js";
import { canvas, decode, draw, player } from "./frames.js";

const COLOURS = ["#e8590c", "#1c7ed6", "#2f9e44", "#ae3ec9", "#e03131", "#0c8599"];

export function mount(place, info, changed, state) {
  let video = state.video ?? 0, remove = state.remove ?? null, move = state.move ?? null, freeze = state.freeze ?? null, chosen = state.chosen ?? null;
  let seen = null, model = null, answer = null, grip = null;
  const scale = 5;
  const left = canvas(50, 50, "The video, with a box for every object that was found", { id: "video" });
  const right = canvas(50, 50, "What the model makes of it", { id: "model" });
  const roll = slider("roll forward", { min: 0, max: 20, step: 1, value: state.roll ?? 0, onchange: changed });
  const names = h("div", { class: "row", role: "group", "aria-label": "Objects" });
  const words = h("p", { id: "change", class: "said" });
  const time = player(paint);
  const videos = h("select", { "aria-label": "Video", onchange: (event) => { video = Number(event.target.value); chosen = null; put({}); } },
    ...Array.from({ length: info.videos }, (_, k) => h("option", { value: k, text: `held-out video ${k + 1}`, selected: k === video })));

  const big = (element, pictures, t, boxes) => {
    const small = document.createElement("canvas");
    draw(small, pictures, t);
    element.width = pictures.width * scale;
    element.height = pictures.height * scale;
    const context = element.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, element.width, element.height);
    for (const [id, x, y, width, height] of boxes || []) {
      context.strokeStyle = COLOURS[id % COLOURS.length];
      context.lineWidth = id === chosen ? 5 : 2;
      context.strokeRect(x * scale, y * scale, width * scale, height * scale);
      context.fillStyle = context.strokeStyle;
      context.font = "bold 16px sans-serif";
      context.fillText(String(id), x * scale + 3, y * scale + 16);
    }
  };
  function paint(t) {
    if (!answer) return;
    const last = seen.count - 1;
    big(left, seen, Math.min(t, last), t <= last ? answer.found[t] : []);
    big(right, model, Math.min(t, model.count - 1), answer.boxes[t]);
  }
  function draw_names() {
    names.replaceChildren(h("span", { text: answer.identities.length ? "Objects" : "No object was found." }), ...answer.identities.map((id) => h("button", {
      type: "button", text: String(id), "aria-label": `Object ${id}`, "aria-pressed": String(id === chosen), onclick: () => { choose(id); } })));
    words.textContent = remove !== null ? `Without object ${remove}` : freeze ? `Object ${freeze[0]} held where it is in frame ${freeze[1] + 1}, from there on` : move ? `Object ${move[0]} moved by ${move[1]} right, ${move[2]} down` : "As it was found";
  }
  function put(change) {  // one change at a time
    [remove, move, freeze] = [change.remove ?? null, change.move ?? null, change.freeze ?? null];
    changed();
  }
  function choose(id) { chosen = id; draw_names(); paint(time.frame); changed(); }
  const nudge = (dx, dy) => {
    if (chosen === null) return;
    const before = move && move[0] === chosen ? move : [chosen, 0, 0];
    put({ move: [chosen, Math.round(before[1] + dx), Math.round(before[2] + dy)] });
  };
  draggable(left, {
    begin(x, y) {
      const t = Math.min(time.frame, seen.count - 1);
      const [px, py] = [x * seen.width, y * seen.height];
      const hit = (answer.found[t] || []).find(([, bx, by, w, high]) => px >= bx && px <= bx + w && py >= by && py <= by + high);
      if (!hit) return null;
      choose(hit[0]);
      const before = move && move[0] === hit[0] ? move : [hit[0], 0, 0];
      grip = { x: px - before[1], y: py - before[2] };
      return grip;
    },
    move(x, y) {
      const to = [chosen, Math.round(x * seen.width - grip.x), Math.round(y * seen.height - grip.y)];
      if (to[1] || to[2]) put({ move: to });
    },
  });
  place.append(
    h("p", { class: "how", text: "Boxes are what was found without labels, a number for each identity. Drag a box in the video to move "
      + "that object in the model's version, or choose one and remove it, or freeze it where it is now; then roll the scene forward." }),
    h("div", { class: "row" }, videos, names,
      h("button", { type: "button", text: "Remove", onclick: () => { if (chosen !== null) put({ remove: chosen }); } }),
      h("button", { type: "button", text: "Freeze", title: "hold the chosen object where it is in the frame shown", onclick: () => {
        if (chosen !== null) put({ freeze: [chosen, Math.min(time.frame, seen.count - 1)] }); } }),
      ...[["←", -4, 0], ["→", 4, 0], ["↑", 0, -4], ["↓", 0, 4]].map(([text, dx, dy]) => h("button", { type: "button", text,
        "aria-label": `Move by ${Math.abs(dx + dy)} pixels ${text}`, onclick: () => nudge(dx, dy) })),
      h("button", { type: "button", text: "As it was", onclick: () => put({}) })),
    roll.element, words, time.element,
    h("div", { class: "pair" }, h("figure", { class: "joint" }, left, h("figcaption", { text: "the video" })),
      h("figure", { class: "joint" }, right, h("figcaption", { text: "the model's version" }))));
  return {
    samples: false,
    state: () => ({ video, remove, move, freeze, chosen, roll: roll.value }),
    question: () => ({ video, remove, move, freeze, roll: roll.value }),
    show(now) {
      answer = now;
      [seen, model] = [decode(now.video), decode(now.model)];
      if (chosen !== null && !now.identities.includes(chosen)) chosen = null;
      draw_names();
      time.set(Math.max(seen.count, model.count));
    },
  };
}
