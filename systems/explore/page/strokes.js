// Pen strokes as pictures: drawn with the mouse, shown, and saved as SVG.

import { h, svg } from "./ui.js";

const line = (points) => points.length === 1 ? `M${points[0]}h0.001` : `M${points.map((p) => p.join(",")).join("L")}`;

export function box(drawing) {
  const points = drawing.flat();
  if (!points.length) return [0, 0, 1, 1];
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [a, b, c, d] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const pad = 0.08 * Math.max(b - a, d - c, 1e-6);
  return [a - pad, c - pad, b - a + 2 * pad, d - c + 2 * pad];
}

export function picture(drawing, begun = [], label = "Drawing") {
  const view = box([...drawing, ...begun]);
  const width = Math.max(view[2], view[3]) / 70;
  return svg("svg", { viewBox: view.join(" "), class: "strokes", role: "img", "aria-label": label, "stroke-width": width },
    svg("path", { d: drawing.map(line).join("") }), svg("path", { class: "begun", d: begun.map(line).join("") }));
}

export function save(drawings, name) {
  let top = 0;
  const parts = drawings.map((drawing) => {
    const [x, y, width, height] = box(drawing);
    const part = `<g transform="translate(${-x} ${top - y})"><path d="${drawing.map(line).join("")}" stroke-width="${Math.max(width, height) / 90}"/></g>`;
    top += height;
    return { part, width };
  });
  const wide = Math.max(...parts.map((p) => p.width));
  const text = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${wide} ${top}" fill="none" stroke="black" stroke-linecap="round" stroke-linejoin="round">${parts.map((p) => p.part).join("")}</svg>\n`;
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: "image/svg+xml" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// A sheet to draw on, `width` by `height` units of the data; `done` is called after every stroke.
export function sheet(width, height, strokes, done) {
  const own = svg("path", { class: "begun" });
  const element = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "sheet", id: "sheet", role: "img", "stroke-width": Math.max(width, height) / 90,
    "aria-label": "Draw the beginning here with mouse, pen or finger" }, own);
  const at = (event) => {
    const area = element.getBoundingClientRect();
    return [(event.clientX - area.left) / area.width * width, (event.clientY - area.top) / area.height * height].map((v) => Number(v.toFixed(4)));
  };
  let current = null;
  const draw = () => own.setAttribute("d", strokes.map(line).join(""));
  element.addEventListener("pointerdown", (event) => {
    current = [at(event)];
    strokes.push(current);
    element.setPointerCapture(event.pointerId);
    event.preventDefault();
    draw();
  });
  element.addEventListener("pointermove", (event) => { if (current) { current.push(at(event)); draw(); } });
  const end = () => { if (current) { current = null; done(); } };
  element.addEventListener("pointerup", end);
  element.addEventListener("pointercancel", end);
  draw();
  return { element, draw };
}
