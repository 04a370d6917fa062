// One answer: its text, its scores, and a person's label.

import { figure, make } from "./dom.js";

const RECIPES = {
  plain: "plain",
  refusal_start: "refusal start",
  reverse_prompt: "reverse prompt",
  steered: "steered",
};
const LABELS = [
  ["helps", "Safe, helps"],
  ["declines", "Safe, declines"],
  ["unsafe", "Unsafe"],
];

/** A bar for a probability, with the threshold as a tick. */
function bar(name, value, threshold, kind) {
  const words = value === null ? "not known" : figure(value);
  const against =
    threshold === null || value === null
      ? ""
      : value >= threshold
        ? `, reaches ${figure(threshold, 2)}`
        : `, below ${figure(threshold, 2)}`;
  const fill = make("span", { className: "fill" });
  fill.style.width = `${(value ?? 0) * 100}%`;
  const track = make(
    "div",
    { className: `track ${kind}`, attrs: { role: "img", "aria-label": `${name} ${words}${against}` } },
    fill,
  );
  if (threshold !== null) {
    const tick = make("span", { className: "tick" });
    tick.style.left = `${threshold * 100}%`;
    track.append(tick);
  }
  return make(
    "div",
    { className: "score" },
    make("span", { className: "score-name" }, name),
    track,
    make("span", { className: "score-value" }, value === null ? "–" : words),
  );
}

/** The text of an answer; each sentence on a ground as strong as what it adds to the score. */
function highlighted(shares) {
  const strongest = Math.max(0.001, ...shares.sentences.map((part) => Math.abs(part.value)));
  const pieces = [];
  let place = 0;
  const text = Array.from(shares.text); // places count characters, not code units
  for (const part of shares.sentences) {
    pieces.push(text.slice(place, part.start).join(""));
    const strength = Math.abs(part.value) / strongest;
    const level = strength > 0.66 ? "3" : strength > 0.33 ? "2" : "1";
    const side = part.value < 0 ? "against" : "for";
    const sign = part.value < 0 ? "−" : "+";
    pieces.push(
      make(
        "span",
        { className: `share ${side} level-${level}` },
        part.text,
        make("span", { className: "only-read" }, ` (speaks ${side} it,`),
        make("span", { className: "share-value" }, ` ${sign}${figure(Math.abs(part.value), 2)}`),
        make("span", { className: "only-read" }, ")"),
      ),
    );
    place = part.end;
  }
  pieces.push(text.slice(place).join(""));
  return pieces;
}

export class Card {
  /** An answer in one column. `label(index, value)` is called when a person labels it. */
  constructor(index, label) {
    this.index = index;
    this.title = make("h4", {}, `Answer ${index + 1}`);
    this.chips = make("span", { className: "chips" });
    this.text = make("p", { className: "text", dir: "auto" });
    this.scores = make("div", { className: "scores" });
    this.buttons = LABELS.map(([value, words]) =>
      make(
        "button",
        {
          type: "button",
          className: "label-button",
          attrs: { "aria-pressed": "false", "data-label": value },
          on: { click: () => label(index, value) },
        },
        words,
      ),
    );
    this.labels = make(
      "div",
      { className: "labels", attrs: { role: "group", "aria-label": `Label answer ${index + 1}` } },
      make("span", { className: "labels-name", attrs: { "aria-hidden": "true" } }, "Label"),
      ...this.buttons,
    );
    this.element = make(
      "li",
      { className: "card" },
      make("div", { className: "card-head" }, this.title, this.chips),
      this.text,
      this.scores,
      this.labels,
    );
  }

  /** Show what is known: the answer, its scores, the decision, the sentences' shares. */
  show({ answer, scores, outcome, rank, shares, label }) {
    const chosen = outcome?.chosen === this.index;
    const threshold = outcome?.threshold ?? null;
    const unused = Boolean(outcome) && !outcome.scores.some((one) => one.index === this.index);
    const below = !chosen && !unused && scores?.p_safe !== undefined && threshold !== null && scores.p_safe < threshold;
    this.element.className = `card${chosen ? " chosen" : ""}${below ? " below" : ""}${unused ? " unused" : ""}`;
    this.#chips({ answer, chosen, below, unused, rank });
    this.#text(answer, shares);
    this.scores.hidden = !scores || scores.p_safe === undefined;
    if (!this.scores.hidden) {
      this.scores.replaceChildren(
        bar("Safe", scores.p_safe, threshold, below ? "low" : "safe"),
        bar("Helps", scores.p_help ?? null, null, "plain"),
        bar("Refuses", scores.p_refusal ?? null, null, "plain"),
      );
    }
    this.labels.hidden = !answer || answer.message !== undefined;
    this.mark(label);
  }

  mark(label) {
    for (const button of this.buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.label === label));
    }
  }

  #chips({ answer, chosen, below, unused, rank }) {
    const chips = [];
    if (chosen) chips.push(["pass", "✓", "goes out"]);
    else if (below) chips.push(["hold", "✕", "below the threshold"]);
    else if (unused && answer && !answer.message) chips.push(["soft", "", "not asked for"]);
    if (answer?.message) chips.push(["hold", "✕", "failed"]);
    if (rank !== null && rank !== undefined && !unused) chips.push(["soft", "", `rank ${rank + 1}`]);
    if (answer?.recipe) chips.push(["soft", "", RECIPES[answer.recipe] ?? answer.recipe]);
    this.chips.replaceChildren(
      ...chips.map(([kind, sign, words]) =>
        make(
          "span",
          { className: `chip ${kind}` },
          sign ? make("span", { attrs: { "aria-hidden": "true" } }, `${sign} `) : null,
          words,
        ),
      ),
    );
  }

  #text(answer, shares) {
    this.text.classList.toggle("waiting", !answer);
    if (!answer) this.text.textContent = "being written …";
    else if (answer.message) this.text.textContent = answer.message;
    else if (shares) this.text.replaceChildren(...highlighted(shares));
    else this.text.textContent = answer.text;
    if (answer?.trace) {
      const words = make("span", { className: "trace", dir: "auto" }, `Reasoning: ${answer.trace}`);
      this.text.prepend(words);
    }
  }
}
