// Scenes: a map with a camera to drag and turn, photographs switched on and off, the view beside its uncertainty and truth.

import { clamp, h, rounded, slider, svg } from "./ui.js";
import { canvas, decode, draw } from "./frames.js";

export function mount(place, info, changed, state) {
  const photographs = decode(info.photographs), maps = info.map && decode(info.map);
  const count = info.poses[0].length;
  let scene = state.scene ?? 0, on = new Set(state.on || [0, 1, 2, 3, 4].filter((i) => i < count)), at = state.at ?? null;
  let camera = state.camera || [...info.poses[scene][count - 1]];
  if (!state.camera && at === null) at = count - 1;
  const X = (x) => (x - info.low) / info.side * 300, Y = (y) => 300 - (y - info.low) / info.side * 300;
  const ground = canvas(56, 56, "The scene from above", { class: "ground" });
  const eyes = svg("g", {}), own = svg("g", { class: "own" });
  const top = svg("svg", { viewBox: "0 0 300 300", class: "map", id: "map", tabindex: 0, role: "application",
    "aria-label": "Map: drag the camera, or move it with the arrow keys; comma and full stop turn it" }, eyes, own);
  const turn = slider("turn", { min: -3.14, max: 3.14, step: 0.02, value: camera[2], onchange: (yaw) => { camera[2] = rounded(yaw, -3, 3); free(); } });
  const view = canvas(32, 32, "What the model sees from there"), spread = canvas(32, 32, "Where it is uncertain"), truth = canvas(32, 32, "The photograph taken there");
  const words = h("p", { id: "seen", class: "said" });
  const strip = h("div", { class: "photographs", role: "group", "aria-label": "Photographs" });
  const scenes = h("select", { "aria-label": "Scene", onchange: (event) => { scene = Number(event.target.value); at = count - 1; build(); changed(); } },
    ...Array.from({ length: info.scenes }, (_, k) => h("option", { value: k, text: `held-out scene ${k + 1}`, selected: k === scene })));

  function free() { at = null; plot(); changed(); }
  function plot() {
    const eye = ([x, y, yaw], name) => svg("path", { class: name, d: name.endsWith("camera") ? "M0,0 L30,-15 L30,15 Z" : "M0,0 L13,-7 L13,7 Z", transform: `translate(${X(x)} ${Y(y)}) rotate(${-yaw * 180 / Math.PI})` });
    eyes.replaceChildren(...info.poses[scene].map((pose, i) => eye(pose, on.has(i) ? "eye on" : "eye")));
    own.replaceChildren(eye(camera, "eye camera"), svg("circle", { r: 6, cx: X(camera[0]), cy: Y(camera[1]) }));
    turn.value = camera[2];
  }
  function build() {
    if (maps) draw(ground, maps, scene);
    strip.replaceChildren(...info.poses[scene].map((pose, i) => {
      const picture = canvas(32, 32, `Photograph ${i + 1}`);
      draw(picture, photographs, scene * count + i);
      const use = h("button", { type: "button", text: on.has(i) ? "on" : "off", "aria-pressed": String(on.has(i)), "aria-label": `Photograph ${i + 1} as evidence`,
        onclick: () => { if (on.has(i)) on.delete(i); else on.add(i); build(); changed(); } });
      const stand = h("button", { type: "button", text: "go", "aria-label": `Stand where photograph ${i + 1} was taken`, "aria-pressed": String(at === i),
        onclick: () => { at = i; camera = [...pose]; build(); changed(); } });
      return h("figure", { class: on.has(i) ? "photograph on" : "photograph" }, picture, h("figcaption", {}, use, stand));
    }));
    if (at !== null) camera = [...info.poses[scene][at]];
    plot();
  }
  let held = false;
  const go = (event) => {
    const box = top.getBoundingClientRect();
    camera[0] = rounded(info.low + clamp((event.clientX - box.left) / box.width, 0.02, 0.98) * info.side, 0, 1);
    camera[1] = rounded(info.low + (1 - clamp((event.clientY - box.top) / box.height, 0.02, 0.98)) * info.side, 0, 1);
    free();
  };
  top.addEventListener("pointerdown", (event) => { held = true; top.setPointerCapture(event.pointerId); go(event); });
  top.addEventListener("pointermove", (event) => { if (held) go(event); });
  top.addEventListener("pointerup", () => { held = false; });
  top.addEventListener("pointercancel", () => { held = false; });
  top.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], ",": [0, 0, 1], ".": [0, 0, -1] }[event.key];
    if (!step) return;
    const within = (v) => rounded(clamp(v, info.low + 0.02 * info.side, info.low + 0.98 * info.side), 0, 1);
    const yaw = camera[2] + step[2] * 0.2;
    camera = [within(camera[0] + step[0] * info.side / 30), within(camera[1] + step[1] * info.side / 30), rounded(Math.atan2(Math.sin(yaw), Math.cos(yaw)), -3, 3)];
    free();
    event.preventDefault();
  });
  place.append(
    h("p", { class: "how", text: "Switch photographs on and off: they are all the model knows of this scene. Drag the camera over the map, turn "
      + "it, or go where a photograph was taken to see the truth beside the view." }),
    h("div", { class: "row" }, scenes, turn.element), words,
    h("div", { class: "split" }, h("div", { class: "trio" }, h("figure", {}, view, h("figcaption", { text: "view (mean)" })),
      h("figure", {}, spread, h("figcaption", { text: "uncertainty (lightest: the largest sd)" })), h("figure", {}, truth, h("figcaption", { text: "truth" }))),
    h("div", { class: "holder" }, maps ? ground : "", top)),
    h("h2", { text: "Photographs" }), strip);
  build();
  return {
    samples: false,
    state: () => ({ scene, on: [...on], at, camera }),
    question: () => ({ scene, on: [...on], at, camera }),
    show(answer) {
      draw(view, decode(answer.view), 0);
      draw(spread, decode(answer.spread), 0);
      truth.parentElement.hidden = !answer.truth;
      if (answer.truth) draw(truth, decode(answer.truth), 0);
      words.textContent = `${on.size} of ${count} photographs known; largest sd ${answer.largest_sd.toFixed(3)}`
        + (answer.squared_error === null ? "" : `; squared error ${answer.squared_error.toFixed(4)}`)
        + (answer.bound === null ? "" : `; log density of that photograph at least ${answer.bound.toFixed(0)} ± ${answer.bound_error.toPrecision(2)} nats`);
    },
  };
}
