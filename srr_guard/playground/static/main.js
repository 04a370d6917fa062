// The page: what is asked, what came back, and what is decided of it.

import { enter, get, post, save, stream } from "./api.js";
import { Column } from "./column.js";
import { announce, byId, make, newId } from "./dom.js";
import { themeButton } from "./theme.js";

const KINDS = { helpful: "Helpful", "sounds harmful": "Only sounds harmful", harmful: "Harmful" };

const state = {
  run: null,
  running: null, // an AbortController while a run is under way
  waits: false, // answers come from the model
  highlight: true,
  answers: new Map(), // by index
  alone: new Map(), // scores of single answers, by scorer and index
  shares: new Map(), // sentences' shares, by scorer and index
  gates: new Map(), // by scorer
  labels: new Map(), // by index
  outcomes: [],
};
let setup;
let columns = [];

// ---- what is shown ----

function show() {
  const active = document.activeElement;
  columns.forEach((column, i) => column.show(state, state.outcomes[i]));
  byId("run").disabled = Boolean(state.running);
  byId("stop").disabled = !state.running;
  byId("welcome").hidden = Boolean(state.run || state.running);
  // a keyboard stays where it was, though its button cannot be pressed any more
  if (active === byId("run") && state.running) byId("stop").focus();
  else if (active === byId("stop") && !state.running) byId("run").focus();
  else if (active?.closest("[hidden]")) byId("results").focus({ preventScroll: true });
}

function say(text) {
  byId("status").textContent = text;
}

function fail(error) {
  const place = byId("error");
  place.hidden = !error;
  place.textContent = error ? error.message : "";
}

function summary() {
  const words = columns.map((column, i) => {
    const outcome = state.outcomes[i];
    if (!outcome || outcome.needs) return "";
    const why = outcome.held ? `Held, nothing goes out: ${outcome.why}` : outcome.why;
    return columns.length > 1 ? `Policy ${column.name}: ${why}` : why;
  });
  announce(words.filter(Boolean).join(" "));
}

function forget() {
  for (const name of ["answers", "alone", "shares", "gates", "labels"]) state[name].clear();
  state.outcomes = [];
  for (const column of columns) column.clear();
}

// ---- events of a run ----

function take(name, data) {
  if (name === "run") state.run = data.run;
  else if (name === "candidate" || name === "failed") {
    state.answers.set(data.index, data);
    say(`${state.answers.size} ${state.answers.size === 1 ? "answer is" : "answers are"} there.`);
  } else if (name === "scored") state.alone.set(`${data.scorer} ${data.index}`, data);
  else if (name === "gate") state.gates.set(data.scorer, data);
  else if (name === "decided") state.outcomes[data.column] = data;
  else if (name === "error") fail(new Error(`Held, nothing goes out: ${data.message}`));
  show();
}

async function run(more) {
  if (state.running) return;
  fail(null);
  const given = byId("mode").querySelector("input:checked").value === "given";
  const body = { prompt: byId("prompt").value, columns: columns.map((column) => column.settings) };
  if (more === true) body.run = state.run;
  else if (given) {
    body.answers = [...byId("given-list").querySelectorAll("textarea")]
      .map((area) => area.value)
      .filter((text) => text.trim());
    if (!body.answers.length) {
      fail(new Error("there are no answers: write or paste at least one"));
      return;
    }
  } else {
    body.recipes = [...byId("recipes").querySelectorAll("input:checked")].map((box) => box.value);
    body.seed = byId("seed").value === "" ? null : Number(byId("seed").value);
  }
  state.running = new AbortController();
  state.waits = !given;
  if (more !== true) {
    forget();
    state.run = null;
  }
  state.outcomes = [];
  say(given ? "Scoring your answers." : "Sampling answers. The first run loads the models.");
  show();
  if (matchMedia("(max-width: 56rem)").matches) byId("results").scrollIntoView();
  try {
    const done = await stream(body, state.running.signal, take);
    say(done ? "Done. Move a slider to decide again." : "");
  } catch (error) {
    if (error.name === "AbortError") {
      say("Stopped. Nothing goes out.");
    } else {
      say("");
      fail(error);
    }
  }
  state.running = null;
  show();
  summary();
  await refresh();
  await explain();
}

// ---- deciding again, at once ----

let deciding = false;
let again = false;

async function decide() {
  show();
  if (!state.run || state.running) return;
  if (deciding) {
    again = true;
    return;
  }
  deciding = true;
  do {
    again = false;
    const asked = state.run;
    try {
      const body = { run: asked, columns: columns.map((column) => column.settings) };
      const found = await post("/api/decide", body);
      if (asked === state.run) {
        state.outcomes = found.columns;
        for (const gate of found.gates) state.gates.set(gate.scorer, gate);
      }
      fail(null);
    } catch (error) {
      fail(error);
    }
    show();
  } while (again);
  deciding = false;
  summary();
  await explain();
}

// ---- sentences ----

async function explain() {
  const asked = state.run;
  if (!state.highlight || !asked || state.running) return;
  for (const column of columns) {
    const { scorer } = column.settings;
    for (const [index, answer] of [...state.answers]) {
      const key = `${scorer} ${index}`;
      if (answer.message || state.shares.has(key)) continue;
      let found;
      try {
        found = await post("/api/explain", { run: asked, candidate: index, scorer });
      } catch {
        return; // this scorer does not explain: the texts stay plain
      }
      if (asked !== state.run) return;
      state.shares.set(key, found);
      show();
    }
  }
}

// ---- labels and history ----

async function label(index, value) {
  const wanted = state.labels.get(index) === value ? null : value;
  try {
    const found = await post("/api/label", { run: state.run, candidate: index, label: wanted });
    if (wanted === null) state.labels.delete(index);
    else state.labels.set(index, wanted);
    count(found.labels);
    announce(wanted === null ? "Label taken back." : `Answer ${index + 1} is labelled.`);
  } catch (error) {
    fail(error);
  }
  show();
}

function count(labels) {
  const button = byId("export");
  button.textContent = `Export labels (${labels})`;
  button.disabled = labels === 0;
}

function ending(outcomes) {
  if (!outcomes.length) return ["soft", "stopped"];
  const [first] = outcomes;
  if (first.held) return ["hold", "held"];
  return first.chosen === null ? ["hold", "refusal"] : ["pass", `answer ${first.chosen + 1}`];
}

async function refresh() {
  let runs;
  try {
    ({ runs } = await get("/api/history"));
  } catch {
    return;
  }
  byId("history-empty").hidden = runs.length > 0;
  count(runs.reduce((sum, one) => sum + one.labels, 0));
  const focused = document.activeElement?.dataset.run;
  byId("history").replaceChildren(
    ...runs.map((one) => {
      const [kind, words] = ending(one.outcomes);
      const current = one.run === state.run ? { "aria-current": "true" } : {};
      return make(
        "li",
        {},
        make(
          "button",
          {
            type: "button",
            className: "entry",
            attrs: { ...current, "data-run": one.run },
            on: { click: () => restore(one.run) },
          },
          make("span", { className: "entry-prompt", dir: "auto" }, one.prompt),
          make(
            "span",
            { className: "entry-facts" },
            make("span", { className: `chip ${kind}` }, words),
            one.answers === 1 ? "1 answer" : `${one.answers} answers`,
            one.labels ? ` · ${one.labels} labelled` : "",
          ),
        ),
      );
    }),
  );
  if (focused) byId("history").querySelector(`[data-run="${focused}"]`)?.focus({ preventScroll: true });
}

async function restore(name) {
  if (state.running) return;
  let found;
  try {
    found = await get(`/api/runs/${name}`);
  } catch (error) {
    fail(error);
    return;
  }
  fail(null);
  forget();
  state.run = found.run;
  fill(found.request);
  const wanted = found.columns.length ? found.columns : [setup.defaults];
  setColumns(wanted);
  for (const [event, data] of found.events) take(event, data);
  for (const [index, value] of Object.entries(found.labels)) state.labels.set(Number(index), value);
  state.outcomes = found.outcomes;
  say("Shown again from the history.");
  show();
  summary();
  await refresh();
  await explain();
}

// ---- the form ----

function setMode(value) {
  byId("mode").querySelector(`input[value=${value}]`).checked = true;
  byId("given").hidden = value !== "given";
  byId("sampling").hidden = value === "given";
}

function addGiven(text = "") {
  const list = byId("given-list");
  const id = newId("given");
  const area = make("textarea", { id, rows: 3, value: text, dir: "auto" });
  const row = make(
    "li",
    {},
    make(
      "div",
      { className: "control-head" },
      make("label", { htmlFor: id }, `Answer ${list.children.length + 1}`),
      make(
        "button",
        {
          type: "button",
          className: "link",
          on: {
            click: () => {
              row.remove();
              [...list.querySelectorAll("label")].forEach((one, i) => (one.textContent = `Answer ${i + 1}`));
              byId("given-add").focus();
            },
          },
        },
        "Remove",
      ),
    ),
    area,
  );
  list.append(row);
  byId("given-add").disabled = list.children.length >= setup.most;
  return area;
}

function fill(request) {
  byId("prompt").value = request.prompt;
  const answers = request.answers ?? [];
  byId("given-list").replaceChildren();
  for (const text of answers.length ? answers : ["", ""]) addGiven(text);
  setMode(answers.length ? "given" : setup.answers ? "model" : "given");
  if (request.recipes) {
    for (const box of byId("recipes").querySelectorAll("input"))
      box.checked = request.recipes.includes(box.value);
    byId("seed").value = request.seed ?? "";
  }
}

function pick(example) {
  fill({ prompt: example.prompt, answers: example.answers });
  byId("prompt").focus();
}

function setColumns(settings) {
  columns = settings.map(
    (one, i) =>
      new Column(settings.length > 1 ? "AB"[i] : "A", {
        most: setup.most,
        scorers: setup.scorers,
        settings: one,
        changed: decide,
        label,
        sample: () => run(true),
      }),
  );
  byId("columns").replaceChildren(...columns.map((column) => column.element));
  byId("columns").classList.toggle("two", columns.length > 1);
  byId("compare").checked = columns.length > 1;
  if (columns.length === 1) columns[0].title.textContent = "Policy";
}

function compare(on) {
  const [first] = columns.map((column) => column.settings);
  if (!on) setColumns([first]);
  else {
    const second = { ...first, threshold: Math.max(first.threshold, 0.8) };
    if (setup.scorers.length > 1) second.scorer = "second";
    setColumns([first, second]);
  }
  state.outcomes = state.outcomes.slice(0, columns.length);
  decide();
}

function addRecipes() {
  for (const recipe of setup.recipes) {
    const hint = newId("recipe");
    const box = make("input", {
      type: "checkbox",
      value: recipe.name,
      disabled: recipe.unserved !== null,
      attrs: { "aria-describedby": hint },
    });
    byId("recipes").append(
      make("label", {}, box, make("span", {}, recipe.label)),
      make("p", { className: "hint", id: hint }, recipe.unserved ? "not with this model" : recipe.help),
    );
  }
}

function addExamples() {
  const select = byId("example");
  for (const [kind, title] of Object.entries(KINDS)) {
    const group = make("optgroup", { label: title });
    const list = make("ul", {});
    setup.examples.forEach((example, i) => {
      if (example.kind !== kind || (!setup.answers && !example.answers.length)) return;
      const words = example.answers.length ? `${example.prompt} (with answers)` : example.prompt;
      group.append(make("option", { value: String(i) }, words));
      const start = () => {
        select.value = String(i);
        pick(example);
        run();
      };
      list.append(make("li", {}, make("button", { type: "button", className: "start", on: { click: start } }, words)));
    });
    if (!group.children.length) continue;
    select.append(group);
    byId("welcome-groups").append(make("div", {}, make("h4", {}, title), list));
  }
  select.addEventListener("change", () => {
    if (select.value !== "") pick(setup.examples[Number(select.value)]);
  });
}

function listen() {
  byId("run").addEventListener("click", () => run());
  byId("stop").addEventListener("click", () => state.running?.abort());
  byId("given-add").addEventListener("click", () => addGiven().focus());
  byId("mode").addEventListener("change", (event) => setMode(event.target.value));
  byId("compare").addEventListener("change", (event) => compare(event.target.checked));
  byId("highlight").addEventListener("change", (event) => {
    state.highlight = event.target.checked;
    show();
    explain();
  });
  byId("export").addEventListener("click", () => save().catch(fail));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
    else if (event.key === "Escape") state.running?.abort();
  });
}

async function start() {
  themeButton(byId("theme"));
  addEventListener("hashchange", () => {
    if (location.hash.startsWith("#token=")) location.reload(); // a link that was pasted here
  });
  try {
    await enter();
    setup = await get("/api/setup");
  } catch (error) {
    fail(error);
    byId("run").disabled = true;
    return;
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) refresh(); // another tab may have run or labelled
  });
  addRecipes();
  addExamples();
  setColumns([setup.defaults]);
  fill({ prompt: "", answers: [] });
  byId("mode").querySelector("input[value=model]").disabled = !setup.answers;
  listen();
  show();
  await refresh();
  document.documentElement.dataset.ready = "true";
}

start();
