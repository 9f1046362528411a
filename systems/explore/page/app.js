// The page: which run, which panel, the question's state in the address, one question at a time.

import { h, tell } from "./ui.js";

const base = new URL(".", location.href);
const session = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
const by = (id) => document.getElementById(id);
let runs = [], titles = {}, current = null, jobs = 0;
let busy = null, waiting = false, last = null, kept = -1000, due = null;

async function post(what, content) {
  const response = await fetch(new URL(`api/${what}`, base), {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ session, ...content }),
  });
  const type = response.headers.get("content-type") || "";
  if (!type.includes("json")) throw new Error(await response.text());
  return response.json();
}

function notice(text, kind = "error") {
  by("notice").textContent = text || "";
  by("notice").className = kind;
  by("notice").hidden = !text;
}

function lost(error) {
  const closed = error instanceof TypeError;
  notice(closed ? "The server has been closed. Start `phlogiston explore` again and open the address it prints."
    : String(error.message || error));
  document.body.classList.toggle("closed", closed);
}

// ----- asking: the newest state wins, and no more than one question is on its way

function changed() {
  if (!current) return;
  waiting = true;
  settled(false);
  if (!busy) next();
}

async function next() {
  while (waiting && current) {
    waiting = false;
    const asked = current;
    const question = { ...asked.panel.question(), ...settings() };
    if (asked.panel.idle && asked.panel.idle(question)) continue;
    const job = `j${++jobs}`;
    busy = job;
    const shown = setTimeout(() => { by("stop").hidden = false; document.body.classList.add("busy"); }, 400);
    const begun = performance.now();
    try {
      const answer = await post("ask", { job, run: asked.key, panel: asked.name, question });
      if (asked === current) show(answer, performance.now() - begun);
    } catch (error) { lost(error); }
    clearTimeout(shown);
    by("stop").hidden = true;
    document.body.classList.remove("busy");
    busy = null;
  }
  // browsers allow some twenty addresses a second
  clearTimeout(due);
  due = setTimeout(() => {
    if (current) remember();
    if (!busy && !waiting) settled(Boolean(current));
  }, Math.max(0, kept + 100 - performance.now()));
}

// For whoever drives the page by a program: whether what is shown answers what is asked.
function settled(yes) { document.body.dataset.settled = String(yes); }

function show(answer, took) {
  document.body.classList.remove("closed");
  const said = answer.warnings || [];
  by("warnings").textContent = said.map((text) => `Warning: ${text}`).join("\n");
  by("warnings").hidden = !said.length;
  if (answer.error) {
    notice(answer.stopped ? "Stopped. Change the question to ask again." : answer.error, answer.stopped ? "note" : "error");
    by("panel").classList.add("stale");
    last = null;
    figures(null);
    return;
  }
  notice("");
  by("panel").classList.remove("stale");
  last = answer;
  figures(answer, took);
  current.panel.show(answer);
}

function figures(answer, took) {
  const parts = [];
  const fact = (name, value, id) => parts.push(h("span", { class: "fact" }, h("b", { text: name }), " ",
    h("span", { id, text: value })));
  if (!answer) fact("no answer", "the picture below belongs to the question before", "method");
  else {
    fact("method", answer.method || "", "method");
    if ("ess" in answer) fact("effective samples", `${tell(answer.ess, 10)} of ${answer.num_samples}`, "ess");
    if ("log_evidence" in answer) {
      const error = answer.log_evidence_error;
      const bar = error === null ? (answer.why_no_error ? ` (no error bar: ${answer.why_no_error})` : "")
        : error > 0 ? ` ± ${error.toPrecision(2)}` : " (exact)";
      fact("log evidence", answer.log_evidence === null ? `none: ${answer.why_no_evidence || "the method gives none"}` : `${tell(answer.log_evidence, 1)}${bar} nats`, "evidence");
    }
    fact("took", `${Math.round(took)} ms`, "took");
  }
  by("figures").replaceChildren(...parts);
}

const settings = () => ({ samples: count("samples", 1000), seed: count("seed", 0) });

function count(id, otherwise) {
  const input = by(id);
  const value = Number.parseInt(input.value, 10);
  return Number.isInteger(value) && value >= Number(input.min) && value <= Number(input.max) ? value : otherwise;
}

// ----- state in the address

function remember() {
  const content = { run: current.key, panel: current.name, ...settings(), state: current.panel.state() };
  kept = performance.now();
  history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(content))}`);
}

function remembered() {
  try { return JSON.parse(decodeURIComponent(location.hash.slice(1))) || {}; } catch { return {}; }
}

async function open(run, name, state) {
  waiting = false;
  settled(false);
  if (busy) post("stop", { job: busy }).catch(() => {});
  current = null;
  by("run").value = run.key;
  by("panels").replaceChildren(...run.panels.map((panel) => h("button", {
    type: "button", text: titles[panel] || panel, "aria-pressed": String(panel === name), onclick: () => open(run, panel),
  })));
  by("figures").replaceChildren();
  by("warnings").hidden = true;
  last = null;
  const place = by("panel");
  place.className = "";
  if (run.fault) {
    notice(run.fault);
    place.replaceChildren(h("p", { class: "quiet", text: `${run.run} cannot be asked; choose another run.` }));
    return;
  }
  notice("");
  place.replaceChildren(h("p", { class: "quiet", text: `Loading ${run.run}.` }));
  try {
    const [module, info] = await Promise.all([
      import(`./${name}.js`), post("describe", { job: `j${++jobs}`, run: run.key, panel: name })]);
    if (by("run").value !== run.key) return;
    if (info.error) {
      notice(info.error);
      place.replaceChildren(h("p", { class: "quiet", text: `${run.run} cannot be asked; choose another run.` }));
      return;
    }
    place.replaceChildren();
    place.dataset.panel = name;
    current = { key: run.key, name, panel: module.mount(place, info, changed, state || {}) };
    by("samples").parentElement.hidden = current.panel.samples === false;
    changed();
  } catch (error) { lost(error); }
}

function choose(key) {
  const run = runs.find((entry) => entry.key === key);
  if (run) open(run, run.panels[0]);
}

// ----- the tools

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    const was = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = was; }, 1200);
  } catch { return false; }
  return true;
}

by("run").addEventListener("change", () => choose(by("run").value));
by("samples").addEventListener("change", changed);
by("seed").addEventListener("change", () => (current?.panel.anew || changed)());
by("stop").addEventListener("click", () => { if (busy) post("stop", { job: busy }).catch(lost); });
by("reset").addEventListener("click", () => { if (current) open(runs.find((r) => r.key === current.key), current.name); });
by("link").addEventListener("click", async (event) => {
  if (current) remember();
  if (!await copy(location.href, event.target)) notice(`The address of this page is the link: ${location.href}`, "note");
});
by("python").addEventListener("click", (event) => {
  if (!last) return;
  by("code").querySelector("pre").textContent = last.python;
  by("code").showModal();
  copy(last.python, event.target);
});
addEventListener("pagehide", () => {
  if (busy) {
    fetch(new URL("api/stop", base), { method: "POST", keepalive: true, body: JSON.stringify({ session, job: busy }) });
  }
});
addEventListener("hashchange", () => start());

function start() {
  const kept = remembered();
  const run = runs.find((entry) => entry.key === kept.run);
  if (kept.samples) by("samples").value = kept.samples;
  if (kept.seed !== undefined) by("seed").value = kept.seed;
  if (run && run.panels.includes(kept.panel)) open(run, kept.panel, kept.state);
  else {
    const first = runs.find((entry) => !entry.fault) || runs[0];
    if (first) open(first, first.panels[0]);
    if (kept.run) notice(`The link names the run ${kept.run}, which is not among these.`, "note");
  }
}

async function main() {
  try {
    const response = await fetch(new URL("api/runs", base));
    ({ runs, titles } = await response.json());
  } catch (error) { lost(error); return; }
  by("run").replaceChildren(...runs.map((run) => h("option", {
    value: run.key, text: `${run.key}: ${run.fault ? "cannot be asked" : run.title}`,
  })));
  start();
}

main();
