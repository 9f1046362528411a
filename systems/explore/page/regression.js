// Inputs by slider, the density of the target with its branches and intervals, and the table of all columns below.

import { colour, draggable, h, rounded, slider, svg, tell } from "./ui.js";
import { mount as table } from "./table.js";

const WIDTH = 640, HEIGHT = 220;

export function mount(place, info, changed, state) {
  const by = Object.fromEntries(info.columns.map((column) => [column.name, column]));
  const target = info.columns.find((column) => column.site === "y");
  const first = state.columns || Object.fromEntries(info.inputs.map((name) => [name, {
    fix: rounded((by[name].low + by[name].high) / 2, by[name].low, by[name].high) }]));
  const stage = h("div", { class: "stage" }), below = h("div", {});
  place.append(stage, below);
  const inner = table(below, info, () => { sync(); changed(); },
    { ...state, columns: first, pair: state.pair || [info.inputs[0], target.name] });

  const sliders = info.inputs.map((name) => {
    const { low, high } = by[name];
    const one = slider(name, { min: low, max: high, step: (high - low) / 400, value: first[name]?.fix ?? (low + high) / 2,
      onchange: (value) => inner.fix(name, rounded(value, low, high)) });
    return { name, ...one, set: (value) => { one.value = value; } };
  });
  const map = info.grid ? heat(info, by[info.inputs[0]], target, (value) => inner.fix(info.inputs[0], value)) : null;
  const line = svg("path", { class: "posterior" }), bars = svg("g", {}), ticks = svg("g", {});
  const words = h("figcaption", { id: "branches" });
  const density = h("figure", { class: "joint" }, svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 34}`, class: "wide", role: "img",
    "aria-label": `Density of ${target.name}` }, line, svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }), bars, ticks), words);
  stage.append(h("p", { class: "how", text: `Move the slider${info.grid ? ", or drag over the map" : "s"}: the density of `
    + `${target.name} follows. Dots are its branches, bars the shortest regions that hold 90 % of it. Free ${info.inputs[0]} below and `
    + `fix ${target.name} to ask the other way round.` }),
  ...sliders.map((one) => one.element), h("div", { class: "split" }, density, map ? map.element : null));

  function sync() {
    for (const one of sliders) if (inner.marks[one.name] && "fix" in inner.marks[one.name]) one.set(inner.marks[one.name].fix);
    if (map) map.at(inner.marks[info.inputs[0]]);
  }
  sync();
  return {
    state: inner.state,
    question: inner.question,
    show(answer) {
      inner.show(answer);
      const drawn = answer.densities[target.name];
      density.classList.toggle("stale", !drawn);
      if (!drawn) {
        words.textContent = "The line is drawn where every input is fixed and nothing else is known; below are the samples.";
        for (const part of [line, bars, ticks]) part.replaceChildren();
        line.setAttribute("d", "");
        return;
      }
      const top = Math.max(...drawn.density), n = drawn.density.length;
      const at = (y) => (y - target.low) / (target.high - target.low) * WIDTH;
      line.setAttribute("d", `M0,${HEIGHT}${drawn.density.map((v, i) => `L${i / (n - 1) * WIDTH},${HEIGHT - v / top * (HEIGHT - 8)}`).join("")}L${WIDTH},${HEIGHT}Z`);
      bars.replaceChildren(...drawn.regions.map(([a, b]) => svg("rect", { class: "region", x: at(a), y: HEIGHT + 5, width: Math.max(1, at(b) - at(a)), height: 7 })));
      ticks.replaceChildren(...drawn.branches.map((y) => svg("circle", { class: "branch", cx: at(y), cy: HEIGHT + 8, r: 5 })),
        svg("text", { x: 0, y: HEIGHT + 31, class: "tick", text: tell(target.low, target.high - target.low) }),
        svg("text", { x: WIDTH, y: HEIGHT + 31, class: "tick", "text-anchor": "end", text: tell(target.high, target.high - target.low) }));
      const wide = target.high - target.low;
      words.textContent = `${target.name}: ${drawn.branches.length} ${drawn.branches.length === 1 ? "branch" : "branches"}, at `
        + `${drawn.branches.slice(0, 8).map((y) => tell(y, wide)).join(", ")}; 90 % in `
        + drawn.regions.slice(0, 8).map(([a, b]) => `[${tell(a, wide)}, ${tell(b, wide)}]`).join(", ");
    },
  };
}

function heat(info, input, target, set) {
  const rows = info.grid.length, columns = info.grid[0].length;
  const canvas = h("canvas", { width: columns, height: rows, class: "heat", role: "img",
    "aria-label": `Density of ${target.name} upwards for every ${input.name} across` });
  const mark = h("span", { class: "mark" });
  const context = canvas.getContext("2d"), picture = context.createImageData(columns, rows);
  const probe = colour("answer").match(/[0-9a-f]{2}/gi).map((part) => Number.parseInt(part, 16));
  const tops = info.grid[0].map((_, j) => Math.max(...info.grid.map((row) => row[j] || 0)));
  info.grid.forEach((row, i) => row.forEach((value, j) => {
    const k = ((rows - 1 - i) * columns + j) * 4;
    picture.data.set([...probe, Math.round(255 * Math.sqrt((value || 0) / (tops[j] || 1)))], k);
  }));
  context.putImageData(picture, 0, 0);
  const holder = h("div", { class: "holder" }, canvas, mark);
  const go = (x) => set(rounded(input.low + Math.min(1, Math.max(0, x)) * (input.high - input.low), input.low, input.high));
  draggable(holder, { begin: (x) => { go(x); return {}; }, move: (x) => go(x) });
  return {
    element: h("figure", { class: "joint" }, holder, h("figcaption", { text: `${input.name} across, ${target.name} upwards` })),
    at(now) {
      mark.hidden = !(now && "fix" in now);
      if (!mark.hidden) mark.style.left = `${(now.fix - input.low) / (input.high - input.low) * 100}%`;
    },
  };
}
