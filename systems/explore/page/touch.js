// Touch music: tap or swipe a performance on the pad, see and hear how the model goes on.

import { clamp, colour, h, slider } from "./ui.js";
import { play, strokes, TAP } from "./sound.js";

const SIDE = 420, WIDE = 900, HIGH = 300, FRAME = 1 / 60, PAUSE = 900;

export function mount(place, info, changed, state) {
  let touches = (state.touches || []).map((t) => [...t]), answers = [], chosen = state.chosen ?? 0;
  let began = 0, down = false, timer = null, audio = null, playing = null, cursor = [0.5, 0.5];
  const pad = h("canvas", { id: "pad", width: SIDE, height: SIDE, tabindex: 0, role: "application", class: "pad",
    "aria-label": "Pad: tap and swipe here; by keyboard arrows move, Space taps" });
  const roll = h("canvas", { id: "score", width: WIDE, height: HIGH, role: "img", class: "score", "aria-label": "Both performances over time: across is time, up is pitch" });
  const seconds = slider("seconds of the answer", { min: 1, max: 10, step: 0.5, value: state.seconds ?? 5, onchange: changed });
  const choice = slider("surprise (what)", { min: 0.1, max: 1.5, step: 0.05, value: state.choice ?? 0.8, onchange: changed });
  const spread = slider("surprise (where, when)", { min: 0.05, max: 1.5, step: 0.05, value: state.spread ?? 0.6, onchange: changed });
  const row = h("div", { class: "row", role: "group", "aria-label": "Answers" });
  const words = h("p", { id: "heard", class: "said", role: "status" });
  const end = () => (touches.length ? touches[touches.length - 1][2] : 0);
  const grid = (v) => Number((Math.round(clamp(v, 0, 1) * info.lattice) / info.lattice).toFixed(4));

  // ----- playing on the pad

  function touch(x, y, fresh) {
    stop();
    const now = performance.now() / 1000;
    if (!touches.length) began = now;
    let t = now - began;
    if (touches.length) {
      const gap = t - end();
      if (!fresh && gap < 0.9 * FRAME) return;
      if (fresh && gap <= TAP) t = end() + 1.1 * TAP;  // sooner than a finger lifts: still a tap of its own
      if (t - end() > 4) { t = end() + 1; began = now - t; }  // went on after a rest
    }
    if (t > 30) { words.textContent = "The pad takes half a minute; begin anew for more."; return; }
    touches.push([grid(x), grid(y), Number(t.toFixed(4))]);
    answers = [];
    paint();
    clearTimeout(timer);
    timer = setTimeout(changed, PAUSE);
  }
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  pad.addEventListener("pointerdown", (event) => {
    down = true;
    pad.setPointerCapture(event.pointerId);
    pad.focus();
    event.preventDefault();
    touch(...at(event), true);
  });
  pad.addEventListener("pointermove", (event) => { if (down) touch(...at(event), false); });
  for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => { down = false; });
  pad.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) cursor = cursor.map((v, i) => clamp(v + step[i] / 14, 0, 1));
    else if (event.key === " " && !event.repeat) touch(...cursor, true);
    else if (event.key !== " ") return;
    event.preventDefault();
    paint();
  });
  pad.addEventListener("focus", paint);
  pad.addEventListener("blur", paint);
  function begin(with_these = []) {
    stop();
    clearTimeout(timer);
    touches = with_these;
    answers = [];
    paint();
    changed();
  }

  // ----- what there is to see

  const own = () => (answers[chosen] || []).map(([x, y, t]) => [x, y, t + end()]);
  function lines(context, all, across, upwards, shade, width) {
    context.strokeStyle = context.fillStyle = shade;
    context.lineWidth = width;
    for (const stroke of strokes(all)) {
      context.beginPath();
      stroke.forEach((touch, i) => (i ? context.lineTo : context.moveTo).call(context, across(touch), upwards(touch)));
      context.stroke();
      context.beginPath();
      context.arc(across(stroke[0]), upwards(stroke[0]), width * 1.9, 0, 7);
      context.fill();
    }
  }
  function paint(now = null) {
    const context = pad.getContext("2d"), [mine, its] = [colour("mark"), colour("answer")];
    context.clearRect(0, 0, SIDE, SIDE);
    lines(context, touches, (t) => t[0] * SIDE, (t) => t[1] * SIDE, mine, 3);
    lines(context, own(), (t) => t[0] * SIDE, (t) => t[1] * SIDE, its, 2);
    if (document.activeElement === pad) {
      context.strokeStyle = colour("quiet");
      context.lineWidth = 2;
      context.strokeRect(cursor[0] * SIDE - 8, cursor[1] * SIDE - 8, 16, 16);
    }
    const score = roll.getContext("2d"), all = [...touches, ...own()];
    const long = Math.max(2, all.length ? all[all.length - 1][2] : 0) * 1.02, x = (t) => 6 + t[2] / long * (WIDE - 12), y = (t) => HIGH - 8 - t[0] * (HIGH - 16);
    score.clearRect(0, 0, WIDE, HIGH);
    lines(score, touches, x, y, mine, 2.5);
    lines(score, own(), x, y, its, 2.5);
    if (now !== null) { score.fillStyle = colour("ink"); score.fillRect(6 + now / long * (WIDE - 12), 0, 2, HIGH); }
  }
  function small(answer, k) {
    const picture = h("canvas", { width: 96, height: 96, role: "img", "aria-label": "" });
    const context = picture.getContext("2d");
    lines(context, answer, (t) => t[0] * 96, (t) => t[1] * 96, colour("answer"), 1.5);
    return h("button", { type: "button", class: "thumb take", "aria-label": `Answer ${k + 1}`, "aria-pressed": String(k === chosen), onclick: () => { chosen = k; list(); paint(); changed(); } }, picture);
  }
  function list() {
    row.replaceChildren(h("span", { text: answers.length ? "Answers" : "" }), ...answers.map(small));
    words.textContent = touches.length ? `${strokes(touches).length} taps and swipes in ${end().toFixed(1)} s were played; answer ${chosen + 1} has ${strokes(answers[chosen] || []).length}`
      : "Nothing was played: the model begins by itself.";
  }

  // ----- what there is to hear

  function stop() {
    if (!playing) return;
    cancelAnimationFrame(playing);
    playing = null;
    audio.close();
    hear.textContent = "Play both";
    paint();
  }
  function listen(first) {
    if (playing) { stop(); return; }
    audio = new AudioContext();
    const output = new GainNode(audio, { gain: 0.8 });
    output.connect(audio.destination);
    const from = first ? 0 : end(), start = audio.currentTime + 0.08;
    let over = start;
    if (first) over = play(audio, touches, start, 0, output);
    over = Math.max(over, play(audio, own(), start - from, 1, output));
    hear.textContent = "Stop the music";
    const follow = () => {
      if (!roll.isConnected || audio.currentTime > over) { stop(); return; }
      paint(clamp(audio.currentTime - start + from, 0, 1e9));
      playing = requestAnimationFrame(follow);
    };
    playing = requestAnimationFrame(follow);
  }
  const hear = h("button", { type: "button", text: "Play both", onclick: () => listen(true) });
  place.append(
    h("p", { class: "how", text: "Tap and swipe on the pad. A moment after you stop, the model goes on from what you played, in blue. Choose an answer, "
      + "and listen." }),
    h("div", { class: "row" }, hear, h("button", { type: "button", text: "Play the answer alone", onclick: () => listen(false) }),
      h("button", { type: "button", text: "Empty pad", onclick: () => begin() })),
    info.examples.length ? h("div", { class: "row" }, h("span", { text: "Or take the first half of one it has not heard:" }), ...info.examples.map((all, k) =>
      h("button", { type: "button", text: String(k + 1), "aria-label": `Held-out performance ${k + 1}`, onclick: () => begin(all.filter((t) => t[2] <= all[all.length - 1][2] / 2)) }))) : "",
    seconds.element, choice.element, spread.element,
    h("div", { class: "padded" }, h("figure", { class: "joint" }, pad, h("figcaption", { text: "the pad: across is the pitch, up is brighter" })),
      h("div", { class: "stage" }, h("figure", { class: "joint" }, roll, h("figcaption", { text: "time across, pitch upwards; orange: played, blue: the answer" })), row, words)));
  paint();
  return {
    samples: false,
    state: () => ({ touches, chosen, seconds: seconds.value, choice: choice.value, spread: spread.value }),
    question: () => ({ touches, seconds: seconds.value, choice: choice.value, spread: spread.value }),
    show(answer) {
      answers = answer.answers;
      chosen = Math.min(chosen, answers.length - 1);
      list();
      if (!playing) paint();
    },
  };
}
