"""Named policies: which one serves a request, and what the request may change of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from srr_guard.core import Guard
from srr_guard.core.in_flight import CallLimit
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.policy import DecisionPolicy, SamplingPolicy
from srr_guard.protocols import PromptGate, ResponseScorer
from srr_guard.serving.config import GatewayConfig, KeyConfig, Override, PolicyConfig

_SAMPLING = ("n", "accept_at")
_RANGES: Mapping[str, tuple[float, float]] = {
    "n": (1, 256),
    "accept_at": (0, 1),
    "threshold": (0, 1),
    "min_familiarity": (0, 1),
}
_NOT_OF_CHECKS = frozenset(get_args(Override)) - {"threshold"}
"""What changes no decision about one answer that is there."""


@dataclass(frozen=True)
class ActivePolicy:
    """The policy of one request.

    Attributes:
        name: Its name.
        guard: Decides; without a limit of calls, which `limit` keeps for all requests together.
        limit: Places for candidate calls.
    """

    name: str
    guard: Guard
    limit: CallLimit

    @property
    def checking(self) -> Guard:
        """Decides about answers that are there already: a hold is an outcome, not an error."""
        held = {"below_threshold": "refuse", "unreadable": "refuse"}
        return self._changed(decision=self.guard.decision.model_copy(update=held))

    def with_sampling(self, sampling: SamplingPolicy) -> Guard:
        """The guard with another sampling policy."""
        return self._changed(sampling=sampling)

    def _changed(self, **policies: Any) -> Guard:
        guard = self.guard
        settings = {
            "sampling": guard.sampling,
            "decision": guard.decision,
            "gating": guard.gating,
            "gate": guard.gate,
            **policies,
        }
        return Guard(scorer=guard.scorer, on_decision=guard.on_decision, **settings)


class PolicyBook:
    """All policies of a configuration. A new configuration gets a new book.

    Args:
        config: The policies.
        scorer: Ranks the candidates.
        gate: Assesses prompts; None: there is none.
        follows_rows: The scorer can follow the answers of a local model.
        on_decision: Told of each decision.

    Raises:
        ConfigurationError: A policy has `gating`, and there is no gate; or it has `cut_below`,
            and nobody follows the local model.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        scorer: ResponseScorer,
        gate: PromptGate | None,
        follows_rows: bool,
        on_decision: Callable[[Decision], object],
    ) -> None:
        self._streams, self._cuts = bool(config.upstreams), config.local is not None
        self._configs = config.policies
        self._scorer = scorer
        self._gate = gate
        for name, policy in config.policies.items():
            if policy.gating is not None and gate is None:
                raise ConfigurationError(
                    f"the policy {name!r} has gating, and its scorer assesses no "
                    "prompts: leave gating out, or give a scorer that does (SRRScorer)"
                )
            if policy.sampling.cut_below is not None and self._cuts and not follows_rows:
                raise ConfigurationError(
                    f"the policy {name!r} has cut_below, and its scorer follows no local model: "
                    "leave it out, or give a scorer that does (SRRScorer)"
                )
        self._on_decision = on_decision
        self._limits = {
            name: CallLimit(policy.sampling.max_in_flight)
            for name, policy in config.policies.items()
        }

    def select(self, key: KeyConfig | None, asked: Any, *, checking: bool = False) -> ActivePolicy:
        """The policy of a request.

        Args:
            key: Whose request it is; None: everyone may name every policy.
            asked: The request's `srr_guard` object: `policy`, and settings to change; or None.
            checking: Answers are checked, none are made: settings that would say nothing are
                refused.

        Raises:
            InvalidInputError: It asks for what does not exist or is not allowed.
        """
        wanted = dict(_mapping(asked))
        allowed = key.policies if key is not None else tuple(self._configs)
        default = allowed[0] if key is not None else "default"
        name = wanted.pop("policy", default)
        if name not in allowed:
            raise InvalidInputError(
                f"srr_guard.policy={name!r} is not yours to choose: there are {', '.join(allowed)}"
            )
        policy = self._configs[name]
        for setting in wanted:
            if checking and setting in _NOT_OF_CHECKS:
                raise InvalidInputError(
                    f"srr_guard.{setting} changes nothing in a check of answers: leave it out"
                )
        sampling, decision = _overridden(policy, wanted)
        guard = Guard(
            scorer=self._scorer,
            sampling=self._followed(sampling),
            decision=decision,
            gating=policy.gating,
            gate=self._gate if policy.gating is not None else None,
            on_decision=self._on_decision,
        )
        return ActivePolicy(name, guard, self._limits[name])

    def _followed(self, sampling: SamplingPolicy) -> SamplingPolicy:
        """The policy as a guard takes it: servers' answers are cut off while they are streamed."""
        changed: dict[str, Any] = {"max_in_flight": None}
        if sampling.cut_below is not None:
            changed["read_ahead"] = self._streams
            changed["cut_below"] = sampling.cut_below if self._streams or self._cuts else None
        return sampling.model_copy(update=changed)


def _mapping(asked: Any) -> Mapping[str, Any]:
    if asked is None:
        return {}
    if not isinstance(asked, Mapping):
        raise InvalidInputError(
            f"srr_guard={asked!r:.80} is no object: give one such as {{'n': 2, 'threshold': 0.7}}"
        )
    return asked


def _overridden(
    policy: PolicyConfig, wanted: Mapping[str, Any]
) -> tuple[SamplingPolicy, DecisionPolicy]:
    sampling, decision, limits = policy.sampling, policy.decision, policy.overrides
    for name, value in wanted.items():
        if name not in limits.allow:
            raise InvalidInputError(
                f"srr_guard.{name:.80} cannot be set by a request here: these can be: "
                f"{', '.join(('policy', *limits.allow))}"
            )
        _require_kind(name, value)
    if not wanted:
        return sampling, decision
    bounds = (
        ("n", None, sampling.n if limits.max_n is None else limits.max_n),
        ("threshold", _first(limits.min_threshold, decision.threshold), None),
        ("min_familiarity", decision.min_familiarity, None),
        ("accept_at", sampling.accept_at, None),
    )
    for name, lowest, highest in bounds:
        least, most = _RANGES[name]
        least, most = _first(lowest, least), _first(highest, most)
        value = wanted.get(name)
        if value is not None and value < least:
            raise InvalidInputError(f"srr_guard.{name}={value!r} is below {least}, the least here")
        if value is not None and value > most:
            raise InvalidInputError(f"srr_guard.{name}={value!r} is above {most}, the most here")
    of_sampling = {k: v for k, v in wanted.items() if k in _SAMPLING}
    of_decision = {k: v for k, v in wanted.items() if k not in _SAMPLING}
    n = of_sampling.get("n", sampling.n)
    fitting = {name: min(getattr(sampling, name), n) for name in ("initial", "min_candidates")}
    return (
        SamplingPolicy(**{**dict(sampling), **fitting, **of_sampling}),
        DecisionPolicy(**{**dict(decision), **of_decision}),
    )


def _require_kind(name: str, value: Any) -> None:
    """Refuse what pydantic would convert, and functions by name."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        "n": number and isinstance(value, int),
        "accept_at": number or value is None,
        "prefer": value in ("best", "safest", "first"),
    }.get(name, number)
    if not fits:
        raise InvalidInputError(f"srr_guard.{name}={value!r:.80} is of the wrong kind")


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
