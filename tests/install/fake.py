"""A guard with a FakeScorer decides; a scorer that needs torch says in one line what is missing."""

from __future__ import annotations

import importlib.util

from srr_guard import LocalChatModel, SafetyRanker, SRRScorer
from srr_guard.errors import MissingExtraError
from srr_guard.testing import FakeScorer, ScriptedChatModel

assert importlib.util.find_spec("torch") is None, "the base brings torch"
ranker = SafetyRanker(
    ScriptedChatModel(answers=["a bad answer", "a good answer"]),
    scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1),
)
assert ranker.invoke("a question").text == "a good answer"
errors = []
for door in (SRRScorer.from_pretrained().warm_up, lambda: LocalChatModel().invoke("Hi")):
    try:
        door()
    except MissingExtraError as error:
        errors.append(str(error))
assert len(errors) == 2
assert not any("\n" in error for error in errors)
print(f"a guard decides, and {errors[0]}")
