// Small helpers of every panel: elements, SVG, dragging with pointer and keyboard, numbers in words.

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function tell(value, spread) {
  if (value === null || value === undefined) return "unknown";
  if (value !== 0 && spread === undefined && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-4)) return value.toPrecision(4);
  const scale = spread || Math.abs(value) || 1;
  const digits = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(scale))));
  return value.toFixed(digits).replace(/^-0(\.0*)?$/, "0$1");
}

// Round to what a drag over a range can mean: a thousandth of it.
export function rounded(value, low, high) {
  const digits = Math.max(0, Math.min(12, 3 - Math.floor(Math.log10(Math.abs(high - low) || 1))));
  return Number(value.toFixed(digits));
}

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// Pointer dragging: begin, move and end get the place as shares of the element's width and height.
export function draggable(element, { begin, move, end }) {
  const place = (event) => {
    const box = element.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  let grip = null;
  element.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    grip = begin(...place(event), event);
    if (grip === null || grip === undefined || grip === false) { grip = null; return; }
    element.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  element.addEventListener("pointermove", (event) => { if (grip !== null) move(...place(event), grip, event); });
  const finish = (event) => { if (grip !== null) { const was = grip; grip = null; if (end) end(...place(event), was); } };
  element.addEventListener("pointerup", finish);
  element.addEventListener("pointercancel", finish);
}

export function slider(label, { min, max, step, value, onchange }) {
  const words = (now) => Number.isInteger(step) ? String(now) : tell(now, max - min);
  const output = h("output", { text: words(value) });
  const input = h("input", { type: "range", min, max, step, value, "aria-label": label });
  input.addEventListener("input", () => { output.textContent = words(Number(input.value)); onchange(Number(input.value)); });
  const element = h("label", { class: "slider" }, h("span", { text: label }), input, output);
  return { element, get value() { return Number(input.value); },
    set value(to) { input.value = to; output.textContent = words(Number(input.value)); } };
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
