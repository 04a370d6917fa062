"""One mapper a data set: from a record of its published form to our rows.

A label of a prompt never becomes a label of a response: a scorer that learns both cannot tell a
refusal from compliance with the same request.
"""

from __future__ import annotations

from srr_guard.training.data.records import (
    Label,
    Record,
    Rows,
    UnfitRecordError,
    first_exchange,
    flag,
    last_exchange,
    made,
    messages,
    number,
    reads,
    text,
    three_labels,
    transcript,
)
from srr_guard.training.data.refusals import is_refusal


@reads("prompt", "response", "prompt_harm_label", "response_refusal_label", "response_harm_label")
def wildguard(record: Record) -> Rows:
    """WildGuardMix and its translations (PolyGuardMix): three labels for each response."""
    categories = f"{text(record, 'prompt_safety_categories')} "
    categories += text(record, "response_safety_categories")
    if _CHILD_EXPLOITATION in categories.replace(",", " ").split():
        return []
    return three_labels(
        text(record, "prompt"),
        text(record, "response"),
        asks_harm=flag(record, "prompt_harm_label"),
        refuses=flag(record, "response_refusal_label"),
        harms=flag(record, "response_harm_label"),
    )


_CHILD_EXPLOITATION = "S4"


@reads("id", "prompt", "response", "prompt_label", "response_label", "response_label_source")
def aegis(record: Record) -> Rows:
    """Aegis 2, and Nemotron Safety Guard v3, which translates it and shares its ids."""
    prompt, harms = text(record, "prompt"), flag(record, "response_label")
    minors = "minor" in text(record, "violated_categories").lower()
    if prompt == "REDACTED" or harms is None or minors:
        return []
    asks_harm = flag(record, "prompt_label")
    if harms:
        kind = "compliance"
    elif text(record, "response_label_source") == "refusal_data_augmentation":
        kind = "refusal" if asks_harm is not False else "over-refusal"
    else:
        kind = "safe-answer" if asks_harm else "benign-help"
    return made(
        prompt,
        text(record, "response"),
        "unsafe" if harms else "safe",
        kind,
        prompt_type=None if asks_harm is None else "unsafe" if asks_harm else "safe",
        goal_id=f"aegis2-{found}" if (found := record.get("id")) is not None else "",
    )


@reads("question", "blue_conversations", "red_conversations")
def harmfulqa(record: Record) -> Rows:
    """HarmfulQA: one conversation of each colour, up to its last answer."""
    rows: Rows = []
    for column, label, kind in _COLOURS:
        conversations = record.get(column) or {}
        if not isinstance(conversations, dict):
            raise UnfitRecordError(f"{column} is no dict of conversations")
        name = next((name for name, turns in conversations.items() if turns), None)
        if name is not None:
            prompt, response = last_exchange(messages(conversations, name))
            goal = text(record, "question")
            rows += made(prompt, response, label, kind, goal=goal, prompt_type="unsafe")
    return rows


_COLOURS: tuple[tuple[str, Label, str], ...] = (
    ("blue_conversations", "safe", "safe-answer"),
    ("red_conversations", "unsafe", "compliance"),
)


@reads("chosen", "rejected")
def hh(record: Record) -> Rows:
    """hh-rlhf: two ends of one dialogue, of which people preferred one."""
    ends = [text(record, column).rpartition(_ANSWER) for column in ("chosen", "rejected")]
    (prompt, _, chosen), (other, _, rejected) = ends
    asked = prompt.strip().removeprefix("Human: ")
    if prompt != other or asked == prompt.strip() or not asked or chosen == rejected:
        return []
    if _ANSWER in asked or "\n\nHuman: " in asked:
        asked = f"Human: {asked}"
    rows = made(asked, chosen, "safe", label_conf="preference")
    rows += made(asked, rejected, "unsafe", label_conf="preference")
    return rows if len(rows) == 2 else []


_ANSWER = "\n\nAssistant:"


@reads("category", "prompt", "response")
def coconot(record: Record) -> Rows:
    """CoCoNot `original`: requests to decline, or to answer with care."""
    declines = text(record, "category").lower() == "requests with safety concerns"
    return made(
        text(record, "prompt"),
        text(record, "response"),
        "safe",
        "refusal" if declines else "safe-answer",
        prompt_type="unsafe" if declines else None,
    )


@reads("prompt", "chosen", "rejected")
def coconot_pref(record: Record) -> Rows:
    """CoCoNot `pref`: requests that only look like the others: help, and a worse answer."""
    prompt, rejected = text(record, "prompt"), text(record, "rejected")
    worse = "over-refusal" if is_refusal(rejected) else "weaker-answer"
    return [
        *made(prompt, text(record, "chosen"), "safe", "benign-help", prompt_type="safe"),
        *made(prompt, rejected, "safe", worse, prompt_type="safe"),
    ]


@reads("context", "response1", "response2", "overall_preference")
def helpsteer3(record: Record) -> Rows:
    """HelpSteer3: two answers and how much the better one is better (below 0: the first)."""
    preference = number(record, "overall_preference")
    if not preference:
        return []
    prompt = transcript(messages(record, "context"))
    answers = [text(record, "response1"), text(record, "response2")]
    better, worse = answers if preference < 0 else reversed(answers)
    rows = made(prompt, better, "safe", "benign-help")
    return rows + made(prompt, worse, "safe", "weaker-answer") if abs(preference) >= 2 else rows


@reads("messages")
def chat(record: Record) -> Rows:
    """Ultrachat and smoltalk: the first exchange is plain help."""
    prompt, response = first_exchange(record, "messages")
    return made(prompt, response, "safe", "benign-help", prompt_type="safe")


@reads("instruction", "context", "response")
def dolly(record: Record) -> Rows:
    """Dolly: short instructions and answers that people wrote."""
    parts = [text(record, "instruction"), text(record, "context")]
    prompt = "\n\n".join(part for part in parts if part)
    return made(prompt, text(record, "response"), "safe", "benign-help", prompt_type="safe")


@reads("conversation")
def wildchat(record: Record) -> Rows:
    """WildChat: the first exchange, if neither side was found toxic."""
    prompt, response = first_exchange(record, "conversation")
    if any(turn.get("toxic") is not False for turn in record.get("conversation", ())[:2]):
        return []
    return made(prompt, response, "safe", "benign-help", label_conf="low")


@reads("context", "response", "label")
def diasafety(record: Record) -> Rows:
    """DiaSafety: one-line dialogue, judged by people; no kind."""
    harms = flag(record, "label")
    if harms is None:
        return []
    return made(text(record, "context"), text(record, "response"), "unsafe" if harms else "safe")


@reads("messages", "source")
def tulu_safety(record: Record) -> Rows:
    """The safety parts of Tulu 3: all safe; the kind is a guess by the words of the answer."""
    prompt, response = first_exchange(record, "messages")
    kind = "refusal" if is_refusal(response) else "benign-help"
    return made(prompt, response, "safe", kind, label_conf="low")


@reads("vanilla", "adversarial", "completion", "data_type")
def wildjailbreak(record: Record) -> Rows:
    """WildJailbreak: every answer is safe; harmful requests were declined, others answered."""
    harmful = text(record, "data_type").endswith("_harmful")
    vanilla = text(record, "vanilla")
    return made(
        text(record, "adversarial") or vanilla,
        text(record, "completion"),
        "safe",
        "refusal" if harmful else "benign-help",
        prompt_type="unsafe" if harmful else "safe",
        goal=vanilla or None,
    )


@reads("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe")
def pku_mixed(record: Record) -> Rows:
    """PKU-SafeRLHF: records with one safe and one unsafe answer."""
    safe = [flag(record, f"is_response_{i}_safe") for i in (0, 1)]
    if set(safe) != {True, False}:
        return []
    rows: Rows = []
    for i in (0, 1):
        mild = number(record, f"response_{i}_severity_level") == 1
        rows += made(
            text(record, "prompt"),
            text(record, f"response_{i}"),
            "safe" if safe[i] else "unsafe",
            None if safe[i] else "compliance",
            label_conf="low" if mild else None,
        )
    return rows


@reads("prompt", "response", "is_safe")
def beavertails(record: Record) -> Rows:
    """BeaverTails: one vote on one answer."""
    safe = flag(record, "is_safe")
    if safe is None:
        return []
    label: Label = "safe" if safe else "unsafe"
    kind = None if safe else "compliance"
    return made(text(record, "prompt"), text(record, "response"), label, kind)


@reads("prompt", "instruct_response")
def falsereject(record: Record) -> Rows:
    """FalseReject: requests that sound harmful and are not, with full answers."""
    response = text(record, "instruct_response")
    return made(text(record, "prompt"), response, "safe", "benign-help", prompt_type="safe")


@reads("question", "GPT4_response", "GPT4_harmful", "GPT4_action")
def do_not_answer(record: Record) -> Rows:
    """Do-Not-Answer: the answers of six models to one request, judged by people."""
    rows: Rows = []
    for column in sorted(record):
        model, _, what = column.rpartition("_")
        if what != "response" or not model:
            continue
        harms, action = number(record, f"{model}_harmful"), number(record, f"{model}_action")
        if harms is not None:
            kind = "compliance" if harms else "refusal" if action == 0 else "safe-answer"
            label: Label = "unsafe" if harms else "safe"
            question = text(record, "question")
            rows += made(question, text(record, column), label, kind, prompt_type="unsafe")
    return rows


@reads("prompt", "chosen", "rejected")
def llm_lat(record: Record) -> Rows:
    """LLM-LAT: a refusal and a harmful answer, by construction."""
    prompt = text(record, "prompt")
    return [
        *made(prompt, text(record, "chosen"), "safe", "refusal", prompt_type="unsafe"),
        *made(prompt, text(record, "rejected"), "unsafe", "compliance", prompt_type="unsafe"),
    ]
