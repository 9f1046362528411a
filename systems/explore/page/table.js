// Columns with their posteriors: drag the handle to fix one, brush its histogram to bound it, type any statement.

import { clamp, colour, draggable, h, rounded, svg, tell } from "./ui.js";

const WIDTH = 300, HEIGHT = 56, FOOT = 18;

export function mount(place, info, changed, state) {
  const marks = { ...(state.columns || {}) };
  const allowed = { ...(state.categories || {}) };
  const names = info.columns.map((column) => column.name);
  const typed = statements(changed, state.typed || []);
  const joint = pairs(names, changed, state.pair || names.slice(0, 2));
  const strips = info.columns.map((column) => strip(column, marks, changed));
  const bars = Object.entries(info.categories).map(([name, values]) => category(name, values, allowed, changed));
  place.append(
    h("p", { class: "how", text: "Drag a triangle to fix a column, or brush over its histogram to bound it; grey is what "
      + "the model expects with nothing known, blue what follows now. A double click frees a column." }),
    typed.element,
    h("div", { class: "split" }, h("div", { class: "strips" }, ...bars.map((b) => b.element), ...strips.map((s) => s.element)),
      names.length > 1 ? joint.element : null));
  const edges = Object.fromEntries(info.columns.map((column) => [column.name, [column.low, column.high]]));
  return {
    fix(name, value) { for (const one of strips) if (one.name === name) one.set({ fix: value }); },
    marks,
    state: () => ({ columns: marks, categories: allowed, typed: typed.value(), pair: joint.value() }),
    question: () => ({ columns: marks, categories: allowed, typed: typed.value(), pair: joint.value(), edges }),
    show(answer) {
      typed.show(answer.said);
      for (const one of strips) one.show(answer.columns[one.name]);
      for (const one of bars) one.show(answer.categories[one.name]);
      joint.show(answer.points, edges);
    },
  };
}

export function statements(changed, given) {
  const list = h("ul", { class: "typed" });
  const said = h("p", { id: "said", class: "said" });
  const input = h("input", { id: "statement", type: "text", size: 40, autocomplete: "off", spellcheck: "false",
    placeholder: "age >= 40   or   2*x0 - x1 >= 0.3   or   label in {3, 8}", "aria-label": "A statement to add" });
  let own = [...given];
  const draw = () => list.replaceChildren(...own.map((text, i) => h("li", {}, h("code", { text }), " ", h("button", {
    type: "button", text: "×", "aria-label": `Remove ${text}`,
    onclick: () => { own = own.filter((_, k) => k !== i); draw(); changed(); } }))));
  const form = h("form", { class: "ask", onsubmit: (event) => {
    event.preventDefault();
    if (!input.value.trim()) return;
    own.push(input.value.trim());
    input.value = "";
    draw();
    changed();
  } }, input, h("button", { text: "Add" }));
  draw();
  return {
    element: h("div", { class: "question" }, said, list, form),
    value: () => own,
    show(lines) { said.textContent = lines.length ? `Given ${lines.join(" and ")}` : "Nothing is known yet."; },
  };
}

export function strip(column, marks, changed) {
  const { name, low, high } = column;
  const at = (value) => clamp((value - low) / (high - low), 0, 1) * WIDTH;
  const back = (share) => rounded(low + clamp(share, 0, 1) * (high - low), low, high);
  const prior = svg("path", { class: "prior" }), posterior = svg("path", { class: "posterior" });
  const box = svg("rect", { class: "bound", y: 0, height: HEIGHT }), line = svg("line", { class: "fixed", y1: 0, y2: HEIGHT });
  const handle = svg("path", { class: "handle", tabindex: 0, role: "slider", "aria-label": `Value of ${name}`,
    "aria-valuemin": low, "aria-valuemax": high, d: `M0,${HEIGHT + 1} l8,15 h-16 z` });
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + FOOT}`, preserveAspectRatio: "none", class: "histogram",
    "data-column": name, role: "group", "aria-label": `Histogram of ${name}` },
  prior, box, posterior, line, svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }), handle);
  const value = h("span", { class: "readout" });
  const free = h("button", { type: "button", text: "free", "aria-label": `Free ${name}`, onclick: () => set(null) });
  let median = (low + high) / 2;

  const peak = Math.max(...column.prior, 1e-9);
  const outline = (shares, top) => {
    const step = WIDTH / shares.length;
    let d = `M0,${HEIGHT}`;
    shares.forEach((share, i) => { const y = HEIGHT - Math.min(1, share / top) * (HEIGHT - 3); d += `L${i * step},${y}L${(i + 1) * step},${y}`; });
    return `${d}L${WIDTH},${HEIGHT}Z`;
  };
  prior.setAttribute("d", outline(column.prior, peak));

  function draw() {
    const mark = marks[name];
    const fixed = mark && "fix" in mark;
    line.setAttribute("visibility", fixed ? "visible" : "hidden");
    box.setAttribute("visibility", mark && !fixed ? "visible" : "hidden");
    if (fixed) { line.setAttribute("x1", at(mark.fix)); line.setAttribute("x2", at(mark.fix)); }
    else if (mark) {
      const [a, b] = [at(mark.low ?? low), at(mark.high ?? high)];
      box.setAttribute("x", a);
      box.setAttribute("width", Math.max(1, b - a));
    }
    const here = fixed ? mark.fix : median;
    handle.setAttribute("transform", `translate(${at(here)} 0)`);
    handle.setAttribute("aria-valuenow", here);
    handle.setAttribute("aria-valuetext", fixed ? `fixed at ${mark.fix}` : `free, median ${tell(median, high - low)}`);
    handle.classList.toggle("set", Boolean(fixed));
    free.disabled = !mark;
  }
  function set(mark) {
    if (mark) marks[name] = mark; else delete marks[name];
    draw();
    changed();
  }

  if (!column.constant) {
    draggable(picture, {
      begin(x, y, event) {
        if (event.detail > 1) { set(null); return null; }
        if (y > HEIGHT / (HEIGHT + FOOT) || event.target === handle) { set({ fix: back(x) }); return { fix: true }; }
        return { from: x };
      },
      move(x, y, grip) {
        if (grip.fix) set({ fix: back(x) });
        else if (Math.abs(x - grip.from) > 0.02) {
          const [a, b] = [Math.min(x, grip.from), Math.max(x, grip.from)];
          const mark = {};
          if (a > 0.005) mark.low = back(a);
          if (b < 0.995) mark.high = back(b);
          set(Object.keys(mark).length ? mark : null);
        }
      },
    });
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10 }[event.key];
      if (event.key === "Delete" || event.key === "Backspace" || event.key === "Escape") set(null);
      else if (event.key === "Home") set({ fix: back(0) });
      else if (event.key === "End") set({ fix: back(1) });
      else if (step) {
        const here = marks[name] && "fix" in marks[name] ? marks[name].fix : median;
        set({ fix: back((here - low) / (high - low) + step / 100) });
      } else return;
      event.preventDefault();
    });
  }
  draw();
  return {
    name,
    set,
    element: h("div", { class: "strip" }, h("div", { class: "head" }, h("b", { text: name }),
      column.unit ? h("span", { class: "unit", text: column.unit }) : null, value, free), picture),
    show(drawn) {
      if (!drawn) return;
      const fixed = marks[name] && "fix" in marks[name];
      median = drawn.median ?? median;
      const shares = drawn.shares || [];
      posterior.setAttribute("d", shares.length ? outline(shares, Math.max(peak, ...shares)) : "");
      posterior.classList.toggle("hidden", Boolean(fixed));
      const wide = high - low;
      value.textContent = fixed ? `= ${marks[name].fix}` : `${tell(drawn.median, wide)}  [${tell(drawn.low, wide)}, ${tell(drawn.high, wide)}]`;
      const inside = shares.reduce((a, b) => a + b, 0);
      value.title = inside < 0.99 ? `${Math.round((1 - inside) * 100)} % of the answer lies outside the picture`
        : "median, and the middle 90 %";
      draw();
    },
  };
}

function category(name, values, allowed, changed) {
  const rows = values.map((text) => {
    const fill = h("span", { class: "fill" }), share = h("span", { class: "share" });
    const button = h("button", { type: "button", class: "value", "aria-pressed": "true", onclick: () => toggle(text) },
      fill, h("span", { class: "word", text }), share);
    return { text, fill, share, button };
  });
  function draw() {
    for (const row of rows) row.button.setAttribute("aria-pressed", String(!allowed[name] || allowed[name].includes(row.text)));
  }
  function toggle(text) {
    const now = allowed[name];
    if (!now) allowed[name] = [text];
    else if (now.includes(text)) allowed[name] = now.filter((other) => other !== text);
    else allowed[name] = [...now, text];
    if (!allowed[name].length || allowed[name].length === values.length) delete allowed[name];
    draw();
    changed();
  }
  draw();
  return {
    name,
    element: h("fieldset", { class: "category", "data-column": name }, h("legend", { text: name }), ...rows.map((r) => r.button)),
    show(shares) {
      rows.forEach((row, i) => {
        row.fill.style.width = `${(shares[i] || 0) * 100}%`;
        row.share.textContent = `${((shares[i] || 0) * 100).toFixed(1)} %`;
      });
    },
  };
}

// The shares of a category's values, only shown.
export function bars(name, values) {
  const rows = values.map((text) => {
    const fill = h("span", { class: "fill" }), share = h("span", { class: "share" });
    return { fill, share, element: h("div", { class: "value" }, fill, h("span", { class: "word", text }), share) };
  });
  return {
    name,
    element: h("div", { class: "category", role: "group", "aria-label": `Posterior of ${name}` }, h("b", { text: name }), ...rows.map((r) => r.element)),
    show(shares) {
      rows.forEach((row, i) => {
        row.fill.style.width = `${(shares[i] || 0) * 100}%`;
        row.share.textContent = `${((shares[i] || 0) * 100).toFixed(1)} %`;
      });
    },
  };
}

function pairs(names, changed, given) {
  const chosen = [...given];
  const canvas = h("canvas", { width: 640, height: 640, role: "img", "aria-label": "Two columns against each other" });
  const pick = (which) => h("select", { "aria-label": which ? "Column on the vertical axis" : "Column on the horizontal axis",
    onchange: (event) => { chosen[which] = event.target.value; changed(); } },
  ...names.map((name) => h("option", { value: name, text: name, selected: name === chosen[which] })));
  return {
    element: h("figure", { class: "joint" }, canvas,
      h("figcaption", {}, names.length > 1 ? pick(0) : null, " across, ", names.length > 1 ? pick(1) : null, " upwards")),
    value: () => chosen,
    show(points, edges) {
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, 640, 640);
      if (!points.length || !edges[chosen[0]] || !edges[chosen[1]]) return;
      const [[a, b], [c, d]] = [edges[chosen[0]], edges[chosen[1]]];
      context.fillStyle = colour("answer");
      context.globalAlpha = Math.min(0.8, 30 / Math.sqrt(points.length) / 2.2);
      for (const [x, y] of points) {
        context.beginPath();
        context.arc((x - a) / (b - a) * 640, 640 - (y - c) / (d - c) * 640, 4, 0, 7);
        context.fill();
      }
      context.globalAlpha = 1;
    },
  };
}
