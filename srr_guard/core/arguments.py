"""The arguments of a `Guard`: short forms in full, each of its kind, all fitting together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from srr_guard.core.observing import require_first_plain
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError
from srr_guard.policy import DecisionPolicy, GatePolicy, SamplingPolicy, recipes_of
from srr_guard.protocols import PromptGate, ResponseScorer, SupportsEarlyCut, SupportsReadAhead
from srr_guard.recipes import Stepwise
from srr_guard.settings import Settings
from srr_guard.threads import is_async, is_async_generator, is_generator

S = TypeVar("S", bound=Settings)

HOOK = "a function that takes a Decision, async or not, no generator; or None"


def in_full(kind: type[S], name: str, policy: S | None, **short: Any) -> S:
    """A policy as it is given, made of its short form, or with its defaults.

    Args:
        kind: Its class.
        name: Name of its argument.
        policy: The policy; None: not given.
        **short: Name and value of the short form; None: not given.

    Raises:
        ConfigurationError: Both are given, or it is of another kind.
    """
    ((field, value),) = short.items()
    if value is not None and policy is not None:
        raise ConfigurationError(f"{field}={value!r} and {name}={policy!r}: give one of them")
    if policy is None:
        return kind() if value is None else kind(**short)
    if not isinstance(policy, kind):
        refuse(name, policy, f"a {kind.__name__}")
    return policy


def require_fitting(
    *,
    scorer: ResponseScorer | None,
    sampling: SamplingPolicy,
    decision: DecisionPolicy,
    gating: GatePolicy | None,
    gate: PromptGate | None,
    on_decision: Callable[[Decision], object] | None,
) -> None:
    """Refuse arguments of the wrong kind, and policies that the scorer or gate cannot serve.

    Raises:
        ConfigurationError: One is; the text names it and what to give.
    """
    if scorer is not None and not _is_scorer(scorer):
        refuse(
            "scorer",
            scorer,
            "an object with `score` and async `ascore` (SRRScorer, FakeScorer), or None",
        )
    hook = on_decision
    if hook is not None and (not callable(hook) or is_generator(hook) or is_async_generator(hook)):
        refuse("on_decision", hook, HOOK)
    if gate is not None and not _is_gate(gate):
        refuse(
            "gate",
            gate,
            "an object with `assess` and async `aassess` (SRRScorer, FakeGate), or None",
        )
    if gating is not None:
        if not isinstance(gating, GatePolicy):
            refuse("gating", gating, "a GatePolicy, or None")
        gating.require_room(sampling)
        if gate is None and not _can(scorer, PromptGate):
            refuse(
                "gating without gate",
                scorer,
                "a scorer that has `assess` (SRRScorer), a `gate=`, or no gating policy",
            )
    if sampling.read_ahead and not _can(scorer, SupportsReadAhead):
        refuse(
            "read_ahead",
            scorer,
            "a scorer that has `read_ahead` (SRRScorer), or leave read_ahead out",
        )
    searched = any(isinstance(recipe, Stepwise) for recipe in recipes_of(sampling, gating))
    cuts = sampling.cut_below is not None and not sampling.read_ahead
    if (searched or cuts) and not _can(scorer, SupportsEarlyCut):
        refuse(
            "cut_below",
            scorer,
            "a scorer that has `early_cut` (SRRScorer); or set read_ahead=True for cut_below, and "
            "leave Stepwise out",
        )
    if decision.mode == "observe":
        require_first_plain(sampling)


def refuse(name: str, value: object, wanted: str) -> NoReturn:
    """Refuse an argument.

    Raises:
        ConfigurationError: Always.
    """
    raise ConfigurationError(f"{name}={value!r} cannot be used: give {wanted}")


def _can(scorer: ResponseScorer | None, what: type) -> bool:
    """True if a scorer offers this too; the shipped one, which None stands for, offers all."""
    return scorer is None or isinstance(scorer, what)


def _is_scorer(scorer: object) -> bool:
    if isinstance(scorer, type):  # the class in place of an object of it
        return False
    return isinstance(scorer, ResponseScorer) and not is_async(scorer.score)


def _is_gate(gate: object) -> bool:
    if isinstance(gate, type):
        return False
    return isinstance(gate, PromptGate) and not is_async(gate.assess)
