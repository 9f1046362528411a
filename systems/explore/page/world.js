// The dream and the game, played with the keyboard: a key goes to both, and what was done is all there is to the state.

import { h, slider, svg } from "./ui.js";
import { canvas, decode, draw } from "./frames.js";

const WIDTH = 300, HEIGHT = 60, PAUSE = 90;
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

export function mount(place, info, changed, state) {
  const done = { dream: [...(state.dream || [])], game: [...(state.game || [])] };
  const over = { dream: false, game: Boolean(info.why_no_game) };
  let agent = false, asked = "", shown_once = true, timer = null;
  const heat = slider("temperature", { min: 0.2, max: 3, step: 0.05, value: state.tau ?? 1, onchange: () => begin() });
  const shown = slider("frames of the game shown to the dream", { min: 0, max: 20, step: 1, value: info.why_no_game ? 0 : state.shown ?? 4, onchange: () => begin() });
  const sides = { dream: side("dream", "the dream"), game: side("game", "the game itself") };
  const names = info.actions.map((name, k) => h("button", { type: "button", text: arrow(name), "aria-label": `Do: ${name}`, onclick: () => act(k) }));
  const auto = h("button", { type: "button", "aria-pressed": "false", text: "Let the agent play", disabled: !info.agent,
    title: info.agent ? null : "no agent was trained with this model", onclick: () => letAgent(!agent) });
  const said = h("p", { id: "course", class: "said", role: "status" });

  function arrow(name) { return { left: "← left", right: "right →", up: "↑ up", down: "↓ down", stay: "↓ stay" }[name] || name; }
  function side(name, title) {
    const picture = canvas(16, 16, `The newest frame of ${title}`, { id: name, class: "pixels field" });
    const line = svg("path", { class: "curve" }), now = svg("circle", { r: 3, class: "branch" });
    const bars = info.actions.map((label) => {
      const fill = h("span", { class: "fill" }), share = h("span", { class: "share" });
      return { fill, share, element: h("div", { class: "value" }, fill, h("span", { class: "word", text: label }), share) };
    });
    const words = h("figcaption", { class: "words" }), chance = h("div", { class: "quiet" });
    const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "wide", role: "img", "aria-label": `How probable the end was at each frame of ${title}` },
      svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }), line, now);
    return {
      element: h("figure", { class: "joint", "data-side": name }, picture, words,
        h("div", { class: "category", role: "group", "aria-label": `How probable the end is next in ${title}` },
          h("b", { text: "probability of the end, if next" }), ...bars.map((b) => b.element)), chance, chart),
      show(course) {
        draw(picture, decode(course.frame), 0);
        const end = course.end, n = Math.max(40, end.length);
        const at = (k) => [k / (n - 1) * WIDTH, (HEIGHT - 1) - end[k] * (HEIGHT - 6)];
        line.setAttribute("d", `M${end.map((_, k) => at(k).join(",")).join("L")}`);
        const [x, y] = at(end.length - 1);
        now.setAttribute("cx", x);
        now.setAttribute("cy", y);
        words.textContent = `${title}: ${course.actions.length} steps, score ${Number(course.score.toFixed(2))}${course.over ? ", over" : ""}`;
        chance.textContent = `… and so far, frame by frame (now ${percent(end[end.length - 1])})`;
        bars.forEach((bar, k) => {
          bar.fill.style.width = `${course.ahead[k] * 100}%`;
          bar.share.textContent = course.over ? "" : percent(course.ahead[k]);
        });
      },
    };
  }
  function percent(p) { return p > 0 && p < 0.001 ? "under 0.1 %" : `${(100 * p).toFixed(1)} %`; }
  function act(k) {
    letAgent(false);
    for (const name of ["dream", "game"]) if (!over[name]) done[name].push(k);
    go();
  }
  function go() { shown_once = false; changed(); }
  function back() {
    letAgent(false);
    const to = Math.max(done.dream.length, done.game.length) - 1;
    for (const name of ["dream", "game"]) done[name].length = Math.max(0, Math.min(done[name].length, to));
    over.dream = over.game = false;
    go();
  }
  function begin() {
    letAgent(false);
    done.dream.length = done.game.length = 0;
    over.dream = over.game = false;
    go();
  }
  function letAgent(yes) {
    agent = yes && info.agent;
    clearTimeout(timer);
    auto.setAttribute("aria-pressed", String(agent));
    auto.textContent = agent ? "Stop the agent" : "Let the agent play";
    if (agent) go();
  }
  function onkey(event) {
    if (!place.isConnected || !document.contains(sides.dream.element)) { removeEventListener("keydown", onkey); return; }
    if (event.target.closest?.("input, select, textarea, dialog") || event.ctrlKey || event.altKey || event.metaKey) return;
    const name = KEYS[event.key];
    let k = info.actions.indexOf(name);
    if (k < 0 && name && (name === "down" || name === "up")) k = info.actions.indexOf("stay");
    if (k < 0 && /^[0-9]$/.test(event.key) && Number(event.key) < info.actions.length) k = Number(event.key);
    if (k < 0 && event.key !== "Backspace") return;
    event.preventDefault();
    if (event.repeat && !shown_once) return;  // a key that is held waits for its frame
    if (k >= 0) act(k); else back();
  }
  addEventListener("keydown", onkey);
  place.append(
    h("p", { class: "how", text: "Play with the arrow keys, or with numbers, from 0; Backspace takes a step back. A key goes to the dream and to the "
      + "game. The dream begins with the game's first frames, and goes on from there by itself: no frame of the game enters it any more." }),
    info.why_no_game ? h("p", { class: "quiet", text: `Only the dream: ${info.why_no_game}` }) : "",
    h("div", { class: "row" }, ...names, h("button", { type: "button", text: "Take back", onclick: back }),
      h("button", { type: "button", text: "From the start", onclick: begin }), auto),
    heat.element, info.why_no_game ? "" : shown.element, said,
    h("div", { class: "pair stage" }, sides.dream.element, info.why_no_game ? "" : sides.game.element));
  const question = () => ({ dream: [...done.dream], game: info.why_no_game ? [] : [...done.game], tau: heat.value, shown: shown.value,
    ...(info.why_no_game ? { outside: false } : {}) });
  return {
    samples: false,
    anew: begin,  // another seed is another game
    state: () => ({ ...done, tau: heat.value, shown: shown.value }),
    question() {
      const now = question();
      asked = JSON.stringify(now);
      return { ...now, ...(agent ? { agent: 1 } : {}) };
    },
    show(answer) {
      shown_once = true;
      const mine = JSON.stringify(question()) === asked;  // no key came in between
      for (const name of ["dream", "game"]) {
        if (!answer[name]) continue;
        sides[name].show(answer[name]);
        over[name] = answer[name].over;
        if (mine) done[name] = answer[name].actions;
      }
      said.textContent = over.dream && over.game ? "Both are over: begin anew, or choose another seed above."
        : over.dream ? "The dream is over; the game goes on." : over.game && !info.why_no_game ? "The game is over; the dream goes on." : "";
      if (agent && !(over.dream && over.game)) timer = setTimeout(() => { if (agent) go(); }, PAUSE);
      else if (agent) letAgent(false);
    },
  };
}
