// Pictures that come as bytes: decoded, drawn, and played as clips.

import { h } from "./ui.js";

export function decode({ shape, data }) {
  const text = atob(data), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  const [height, width, channels] = shape.slice(-3);
  const size = height * width * channels;
  return { shape, height, width, channels, count: bytes.length / size, at: (k) => bytes.subarray(k * size, (k + 1) * size) };
}

export function canvas(width, height, label, attributes = {}) {
  return h("canvas", { width, height, role: "img", "aria-label": label, class: "pixels", ...attributes });
}

export function draw(element, pictures, k) {
  const { width, height, channels } = pictures, bytes = pictures.at(k);
  if (element.width !== width) element.width = width;
  if (element.height !== height) element.height = height;
  const context = element.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i += 1) {
    for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = bytes[i * channels + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return context;
}

// A scrub bar with a play button; `show` gets the frame. Nothing moves by itself where people prefer no motion.
export function player(show) {
  let count = 1, timer = null;
  const bar = h("input", { id: "scrub", type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": "Frame" });
  const words = h("output", { text: "frame 1" });
  const button = h("button", { type: "button", text: "Play", onclick: () => (timer ? stop() : start()) });
  const go = (k) => { bar.value = k; words.textContent = `frame ${Number(bar.value) + 1} of ${count}`; show(Number(bar.value)); };
  const start = () => { button.textContent = "Pause"; timer = setInterval(() => {
    if (!bar.isConnected) stop(); else go((Number(bar.value) + 1) % count);
  }, 180); };
  const stop = () => { button.textContent = "Play"; clearInterval(timer); timer = null; };
  bar.addEventListener("input", () => { stop(); go(Number(bar.value)); });
  return {
    element: h("div", { class: "row" }, button, bar, words), get frame() { return Number(bar.value); },
    set(n) { count = n; bar.max = n - 1; go(Math.min(Number(bar.value), n - 1)); },
  };
}
