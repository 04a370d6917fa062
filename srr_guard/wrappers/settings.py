"""Arguments that all front doors share: a scorer, policies, a gate and a hook, or a guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from srr_guard.core.calls import require_plain
from srr_guard.core.guard import Guard
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError
from srr_guard.policy import DecisionPolicy, GatePolicy, SamplingPolicy
from srr_guard.protocols import PromptGate, ResponseScorer

SETTINGS = ("scorer", "sampling", "decision", "gating", "gate", "on_decision")
"""The arguments of a `Guard` that its wrappers keep as fields."""


def guard_of(guard: Guard | None, **options: Any) -> Guard:
    """The guard given, or a new one with these options (see `Guard`).

    Raises:
        ConfigurationError: It is no guard, or options stand beside it.
    """
    if guard is None:
        return Guard(**options)
    if not isinstance(guard, Guard):
        raise ConfigurationError(f"guard={guard!r} cannot be used: give a Guard")
    if given := [name for name, value in options.items() if value is not None]:
        raise ConfigurationError(
            f"guard={guard!r} and {', '.join(given)}: a guard brings its own; give one or the other"
        )
    return guard


class GuardSettings(TypedDict, total=False):
    """The same arguments, as adapters take them by `**settings`.

    Attributes:
        scorer: Ranks the candidates; None: the shipped scorer, loaded on first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        gating: What is decided from the prompt alone; None: nothing, unless there is a `gate`.
        gate: Assesses prompts; None: the scorer does, where there is a `gating` policy.
        on_decision: Called with each Decision (see `Guard`).
        n: Short for `sampling=SamplingPolicy(n=...)`.
        threshold: Short for `decision=DecisionPolicy(threshold=...)`.
        guard: A guard to share, in place of all the others.
    """

    scorer: ResponseScorer | None
    sampling: SamplingPolicy | None
    decision: DecisionPolicy | None
    gating: GatePolicy | None
    gate: PromptGate | None
    on_decision: Callable[[Decision], object] | None
    n: int | None
    threshold: float | None
    guard: Guard | None


def guard_from(settings: GuardSettings) -> Guard:
    """The guard of an adapter whose framework makes its own calls.

    Raises:
        ConfigurationError: A setting is of the wrong kind, unknown, or reaches no model there.
    """
    if unknown := settings.keys() - GuardSettings.__annotations__.keys():
        raise ConfigurationError(
            f"{', '.join(sorted(unknown))}: no such setting; there are "
            f"{', '.join(GuardSettings.__annotations__)}"
        )
    options: dict[str, Any] = {**settings}
    guard = guard_of(options.pop("guard", None), **options)
    require_plain(guard.sampling, guard.gating)
    return guard
