// One policy: its controls, the gate's reading, the decision, and the answers in its order.

import { Card } from "./card.js";
import { figure, make, newId } from "./dom.js";

const TITLES = {
  accepted: "Answer goes out",
  best_of_n: "Answer goes out",
  fallback: "Answer goes out",
  refused: "Refusal goes out",
  refused_by_gate: "Refused by the gate",
};

function slider(name, options, changed) {
  const id = newId("slider");
  const input = make("input", { type: "range", id, ...options, on: { input: () => changed() } });
  const output = make("output", { className: "figure", htmlFor: id });
  const element = make(
    "div",
    { className: "control" },
    make("div", { className: "control-head" }, make("label", { htmlFor: id }, name), output),
    input,
  );
  return { input, output, element };
}

function choice(name, options, changed) {
  const id = newId("choice");
  const select = make(
    "select",
    { id, on: { change: () => changed() } },
    ...options.map(([value, words]) => make("option", { value }, words)),
  );
  const element = make("div", { className: "control" }, make("label", { htmlFor: id }, name), select);
  return { select, element };
}

function timing({ again, seconds }) {
  if (again) return "decided again without sampling or scoring";
  return `generation ${figure(seconds.generation, 2)} s, scoring ${figure(seconds.scoring, 2)} s`;
}

export class Column {
  /** A policy's column. `changed()` is called when a setting moves. */
  constructor(name, { most, scorers, settings, changed, label, sample }) {
    this.name = name;
    this.cards = new Map();
    this.label = label;
    this.changed = () => {
      this.#figures();
      changed();
    };
    this.threshold = slider("Threshold", { min: "0", max: "1", step: "0.01" }, this.changed);
    this.n = slider("Answers (n)", { min: "1", max: String(most), step: "1" }, this.changed);
    this.accept = slider("Accept the first at", { min: "0", max: "1", step: "0.01" }, this.changed);
    const adaptiveId = newId("adaptive");
    this.adaptive = make("input", { type: "checkbox", id: adaptiveId, on: { change: this.changed } });
    this.prefer = choice(
      "Prefer",
      [
        ["best", "best rank"],
        ["safest", "safest"],
        ["first", "first"],
      ],
      this.changed,
    );
    this.gate = choice(
      "Prompt gate",
      [
        ["shown", "shows only"],
        ["decides", "raises the threshold"],
        ["refuses", "may also refuse"],
      ],
      this.changed,
    );
    this.scorer = choice(
      "Scorer",
      scorers.map((scorer) => [scorer.name, scorer.label]),
      this.changed,
    );
    this.scorer.element.hidden = scorers.length < 2;
    const heading = newId("policy");
    this.reading = make("div", { className: "reading", hidden: true });
    this.banner = make("div", { className: "banner", hidden: true });
    this.needs = make(
      "div",
      { className: "needs", hidden: true },
      make("p", {}, ""),
      make("button", { type: "button", className: "primary", on: { click: sample } }, "Sample them"),
    );
    this.list = make("ol", { className: "cards", attrs: { "aria-label": `Answers, policy ${name}` } });
    this.title = make("h3", { id: heading }, `Policy ${name}`);
    this.element = make(
      "section",
      { className: "column", attrs: { "aria-labelledby": heading } },
      make(
        "div",
        { className: "policy" },
        this.title,
        make(
          "div",
          { className: "controls" },
          this.threshold.element,
          this.n.element,
          this.prefer.element,
          this.gate.element,
          this.scorer.element,
          make(
            "div",
            { className: "control adaptive" },
            make(
              "label",
              { className: "switch", htmlFor: adaptiveId },
              this.adaptive,
              make("span", {}, "Adaptive sampling"),
            ),
            this.accept.element,
          ),
        ),
      ),
      this.reading,
      this.banner,
      this.needs,
      this.list,
    );
    this.settings = settings;
  }

  get settings() {
    return {
      n: Number(this.n.input.value),
      threshold: Number(this.threshold.input.value),
      prefer: this.prefer.select.value,
      accept_at: this.adaptive.checked ? Number(this.accept.input.value) : null,
      gate: this.gate.select.value,
      scorer: this.scorer.select.value,
    };
  }

  set settings(given) {
    this.n.input.value = String(given.n);
    this.threshold.input.value = String(given.threshold);
    this.prefer.select.value = given.prefer;
    this.adaptive.checked = given.accept_at !== null;
    this.accept.input.value = String(given.accept_at ?? 0.5);
    this.gate.select.value = given.gate;
    this.scorer.select.value = given.scorer;
    this.#figures();
  }

  #figures() {
    this.threshold.output.textContent = figure(Number(this.threshold.input.value), 2);
    this.n.output.textContent = this.n.input.value;
    this.accept.output.textContent = figure(Number(this.accept.input.value), 2);
    this.accept.input.disabled = !this.adaptive.checked;
    this.accept.element.classList.toggle("off", !this.adaptive.checked);
  }

  /** Forget the last run. */
  clear() {
    this.cards.clear();
    this.list.replaceChildren();
    this.reading.hidden = this.banner.hidden = this.needs.hidden = true;
  }

  /** Show the state of a run under this policy. */
  show(state, outcome) {
    const scorer = this.scorer.select.value;
    this.#showGate(state.gates.get(scorer));
    const needs = outcome?.needs;
    this.needs.hidden = !needs;
    if (needs) {
      const many = needs.length === 1 ? "1 answer that was" : `${needs.length} answers that were`;
      this.needs.firstChild.textContent = `These settings ask for ${many} not sampled yet.`;
    }
    const decided = needs ? undefined : outcome;
    this.#showDecision(decided);
    this.#showCards(state, scorer, decided);
  }

  #showGate(gate) {
    this.reading.hidden = !gate;
    if (!gate) return;
    if (gate.error) {
      this.reading.replaceChildren(make("p", {}, `The gate gave no reading: ${gate.error}`));
      return;
    }
    const fill = make("span", { className: "fill" });
    fill.style.width = `${gate.p_harmful * 100}%`;
    const words = gate.p_harmful > 0.8 ? "looks harmful" : gate.p_harmful < 0.2 ? "looks benign" : "is uncertain";
    const familiar = gate.familiarity === null ? "" : `, familiarity ${figure(gate.familiarity, 2)}`;
    this.reading.replaceChildren(
      make("span", { className: "reading-name" }, "Gate"),
      make(
        "div",
        {
          className: "track gate",
          attrs: { role: "img", "aria-label": `gate: p_harmful ${figure(gate.p_harmful, 2)}` },
        },
        fill,
      ),
      make("span", { className: "score-value" }, figure(gate.p_harmful, 2)),
      make("span", { className: "reading-words" }, `The prompt ${words}${familiar}.`),
    );
  }

  #showDecision(outcome) {
    this.banner.hidden = !outcome;
    if (!outcome) return;
    const kind = outcome.held ? "held" : outcome.chosen === null ? "refused" : "passed";
    const sign = { held: "!", refused: "✕", passed: "✓" }[kind];
    const title = outcome.held
      ? "Held: nothing goes out"
      : outcome.chosen === null
        ? (TITLES[outcome.reason] ?? "Refusal goes out")
        : `Answer ${outcome.chosen + 1} goes out`;
    const facts = [];
    if (outcome.sampled !== undefined) facts.push(`asked for ${outcome.sampled}`);
    if (outcome.failed) facts.push(`${outcome.failed} failed`);
    if (outcome.familiarity !== null && outcome.familiarity !== undefined)
      facts.push(`request familiarity ${figure(outcome.familiarity, 2)}`);
    if (outcome.seconds) facts.push(timing(outcome));
    if (outcome.reason) facts.push(`reason ${outcome.reason}`);
    this.banner.className = `banner ${kind}`;
    this.banner.replaceChildren(
      make("span", { className: "banner-sign", attrs: { "aria-hidden": "true" } }, sign),
      make(
        "div",
        { className: "banner-body" },
        make("p", { className: "banner-title" }, title),
        make("p", { className: "banner-why" }, outcome.why),
        outcome.output
          ? make("blockquote", { className: "banner-output", dir: "auto" }, outcome.output)
          : null,
        make("p", { className: "banner-facts" }, facts.join(" · ")),
      ),
    );
  }

  #showCards(state, scorer, outcome) {
    const known = new Set(state.answers.keys());
    if (!outcome && state.running && state.waits) {
      const one = this.adaptive.checked || state.answers.size === 0 ? 1 : 0; // the rest may not be asked for
      const asked = this.adaptive.checked ? Math.max(one, state.answers.size) : Number(this.n.input.value);
      for (let i = 0; i < asked; i += 1) known.add(i);
    }
    const ranks = new Map((outcome?.order ?? []).map((index, rank) => [index, rank]));
    const indices = [...known].sort((a, b) => (ranks.get(a) ?? 1000 + a) - (ranks.get(b) ?? 1000 + b));
    const decided = new Map((outcome?.scores ?? []).map((one) => [one.index, one]));
    const elements = indices.map((index) => {
      if (!this.cards.has(index)) this.cards.set(index, new Card(index, this.label));
      const card = this.cards.get(index);
      card.show({
        answer: state.answers.get(index),
        scores: decided.get(index) ?? state.alone.get(`${scorer} ${index}`),
        outcome,
        rank: ranks.get(index),
        shares: state.highlight ? state.shares.get(`${scorer} ${index}`) : undefined,
        label: state.labels.get(index),
      });
      return card.element;
    });
    const now = [...this.list.children];
    if (now.length !== elements.length || now.some((child, i) => child !== elements[i])) {
      this.list.replaceChildren(...elements);
    }
  }
}
