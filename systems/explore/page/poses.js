// A figure whose hands, feet and head are dragged, above the columns of its angles and places.

import { clamp, h, rounded, svg, tell } from "./ui.js";
import { statements, strip } from "./table.js";

const LEFT = -1.5, RIGHT = 1.5, LOW = -0.5, HIGH = 2.0;
const SHOWN = ["root_x", "root_y", "com_x", "com_y", "angle_torso", "angle_head"];

export function mount(place, info, changed, state) {
  const marks = { ...(state.columns || {}) };
  const targets = { ...(state.targets || {}) };
  const typed = statements(changed, state.typed || []);
  const strips = info.columns.filter((column) => SHOWN.includes(column.name)).map((column) => strip(column, marks, changed));
  const bodies = svg("g", {}), grips = svg("g", {});
  const scene = svg("svg", { viewBox: "0 0 600 500", class: "scene", role: "group", "aria-label": "Poses" },
    svg("line", { class: "axis", x1: 0, x2: 600, y1: Y(0), y2: Y(0) }), bodies, grips);
  const edges = Object.fromEntries(info.columns.map((column) => [column.name, [column.low, column.high]]));
  const missed = h("figcaption", { id: "missed" });
  let figures = [], held = null;

  function X(x) { return (x - LEFT) / (RIGHT - LEFT) * 600; }
  function Y(y) { return 500 - (y - LOW) / (HIGH - LOW) * 500; }
  function back(event) {
    const box = scene.getBoundingClientRect();
    const x = LEFT + (event.clientX - box.left) / box.width * (RIGHT - LEFT);
    const y = HIGH - (event.clientY - box.top) / box.height * (HIGH - LOW);
    return [rounded(clamp(x, LEFT, RIGHT), 0, 1), rounded(clamp(y, LOW, HIGH), 0, 1)];
  }
  function at(name) { return targets[name] || (figures[0] ? figures[0][info.joints.indexOf(name)] : [0, 1]); }
  function set(name, place) {
    if (place) targets[name] = place; else delete targets[name];
    draw();
    changed();
  }

  const handles = info.handles.map((name) => {
    const words = name.replace("_", " ");
    const circle = svg("circle", { class: "grip", r: 11, tabindex: 0, role: "button", "data-target": name,
      "aria-label": `${words}: drag it, or move it with the arrow keys; Delete frees it` }, svg("title", { text: words }));
    circle.addEventListener("pointerdown", (event) => {
      held = name;
      circle.setPointerCapture(event.pointerId);
      circle.focus();
      event.preventDefault();
    });
    circle.addEventListener("pointermove", (event) => { if (held === name) set(name, back(event)); });
    circle.addEventListener("pointerup", () => { held = null; });
    circle.addEventListener("pointercancel", () => { held = null; });
    circle.addEventListener("dblclick", () => set(name, null));
    circle.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (event.key === "Delete" || event.key === "Backspace" || event.key === "Escape") set(name, null);
      else if (step) {
        const [x, y] = at(name);
        set(name, [rounded(clamp(x + step[0] * 0.05, LEFT, RIGHT), 0, 1), rounded(clamp(y + step[1] * 0.05, LOW, HIGH), 0, 1)]);
      } else return;
      event.preventDefault();
    });
    grips.append(circle);
    return { name, circle };
  });

  function draw() {
    bodies.replaceChildren(...figures.map((joints, i) => svg("path", {
      class: i ? "body" : "body first",
      d: info.bones.map(([a, b]) => `M${X(joints[a][0])},${Y(joints[a][1])}L${X(joints[b][0])},${Y(joints[b][1])}`).join(""),
    })).reverse());
    for (const { name, circle } of handles) {
      const [x, y] = at(name);
      circle.setAttribute("cx", X(x));
      circle.setAttribute("cy", Y(y));
      circle.classList.toggle("set", name in targets);
    }
  }

  place.append(
    h("p", { class: "how", text: "Drag a hand, a foot or the head: the other joints follow as they do in the poses that were "
      + "learned. A filled circle is a target; a double click frees it. Faint figures are further samples." }),
    typed.element,
    h("div", { class: "split" }, h("figure", { class: "joint" }, scene, missed), h("div", { class: "strips" }, ...strips.map((s) => s.element))));
  return {
    state: () => ({ targets, columns: marks, typed: typed.value() }),
    question: () => ({ targets, columns: marks, typed: typed.value(), edges }),
    show(answer) {
      figures = answer.figures;
      typed.show(answer.said);
      const far = answer.missed > 0.02;
      missed.textContent = !Object.keys(targets).length ? "" : far
        ? `Out of reach: the figures miss their targets by ${tell(answer.missed)} in the mean (a forearm is 0.3 long).`
        : "The figures are samples of the answer, moved the little that is needed to meet their targets exactly.";
      for (const one of strips) one.show(answer.columns[one.name]);
      draw();
    },
  };
}
