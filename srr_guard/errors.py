"""Every error that srr_guard raises on purpose.

SRRGuardError
├── InvalidInputError          (ValueError)   a prompt, candidate or argument cannot be used
├── ConfigurationError         (ValueError)   a policy, decorator or setting makes no sense
│   ├── NotRepeatableError                    what is guarded keeps state or asks a human
│   └── UnguardedError         (AttributeError)  a part of a client that no guard covers
├── DataError                  (ValueError)   a row of training or evaluation data is malformed
├── MissingExtraError          (ImportError)  an optional dependency is not installed
├── ReferenceModelError                       the reference LLM
│   ├── ReferenceNotFoundError                it is nowhere to be found
│   └── ReferenceLoadError                    it was found but cannot be loaded
├── ScorerError                               the trained scorer
│   ├── BundleNotFoundError                   no such bundle
│   ├── CorruptBundleError                    a bundle that cannot be read
│   ├── IncompatibleScorerError               a bundle made for another reference LLM
│   └── ScoringError                          scoring failed or gave unusable numbers
│       ├── ScorerBusyError                   too many requests wait already
│       └── ScorerUnreachableError            no server of a remote scorer answers
└── SamplingError                             the wrapped model
    ├── UpstreamError                         a server behind the gateway gave no answer
    ├── AllCandidatesFailedError              no candidate came back
    ├── NotEnoughCandidatesError              fewer came back than `min_candidates`
    └── WithheldError                         there are answers, and none may be passed on
        ├── PromptRefusedError                the prompt gate refused the request
        ├── BelowThresholdError               the best candidate is not safe enough
        └── UnreadableError                   what is left cannot be read as text
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from types import GetSetDescriptorType, MemberDescriptorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srr_guard.decision import Decision


class SRRGuardError(Exception):
    """Base of every error raised on purpose by srr_guard.

    Errors pickle with all they hold, so that a worker process can hand them back.
    """

    def __reduce__(self) -> Any:
        """Restore message and attributes without `__init__`, whose arguments are not kept."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InvalidInputError(SRRGuardError, ValueError):
    """A prompt, candidate or argument cannot be used as given."""


class ConfigurationError(SRRGuardError, ValueError):
    """A policy, decorator argument or setting makes no sense."""


class NotRepeatableError(ConfigurationError):
    """What is guarded keeps state or asks a human, which n candidates would do n times."""


class UnguardedError(ConfigurationError, AttributeError):
    """A part of a guarded client would pass answers on unscored.

    Also an AttributeError, so that code which looks whether a client has this part goes on
    without it.
    """


class DataError(SRRGuardError, ValueError):
    """A row of training or evaluation data is malformed."""


class MissingExtraError(SRRGuardError, ImportError):
    """An optional dependency is needed and not installed.

    Attributes:
        package: Name of the package.
        extra: The extra that brings it.
    """

    def __init__(self, *, package: str, extra: str, purpose: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: "
            f'run `pip install "srr-guard[{extra}]"`'
        )


class ReferenceModelError(SRRGuardError):
    """The reference LLM cannot be used."""


class ReferenceNotFoundError(ReferenceModelError):
    """The reference LLM is neither installed, nor cached, nor reachable."""


class ReferenceLoadError(ReferenceModelError):
    """The reference LLM was found but could not be loaded."""


class ScorerError(SRRGuardError):
    """The trained scorer cannot be used."""


class BundleNotFoundError(ScorerError):
    """No scorer bundle has this name or path."""


class CorruptBundleError(ScorerError):
    """A scorer bundle is incomplete or cannot be read."""


class IncompatibleScorerError(ScorerError):
    """A scorer bundle was trained for another reference LLM than the one loaded."""


class ScoringError(ScorerError):
    """Scoring failed, or gave numbers that must not be used (NaN, infinity).

    Attributes:
        retry_after: Seconds after which the scorer wants to be asked again; None: it does not say.
    """

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(*args)


class ScorerBusyError(ScoringError):
    """Too many requests wait for the scorer already."""


class ScorerUnreachableError(ScoringError):
    """No server of a remote scorer gave a ranking that can be used."""


class SamplingError(SRRGuardError):
    """The wrapped model did not give an answer that may be passed on."""


class UpstreamError(SamplingError):
    """A server behind the gateway refused a request, failed, or gave no usable answer.

    Attributes:
        status: HTTP status that it gave; 502 where it gave none, 504 where it took too long.
        detail: The `error` object of its answer; None if there is none.
        retry_after: Seconds after which it wants to be asked again; None: it does not say.
        is_retryable: False where another attempt would fail likewise.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        detail: Any = None,
        retry_after: float | None = None,
        is_retryable: bool = True,
    ) -> None:
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.is_retryable = is_retryable
        super().__init__(message)


class AllCandidatesFailedError(SamplingError):
    """Every candidate failed.

    Where the causes have a type in common, the error is also of that type and has the first
    cause's attributes (see `of`), so that retries, fallbacks and handlers outside recognise it.

    Attributes:
        causes: One exception per candidate, in the order of the candidates.
    """

    def __init__(self, causes: Sequence[BaseException]) -> None:
        self.causes = tuple(causes)
        first = self.causes[0] if self.causes else None
        self.args = (
            f"all {len(self.causes)} candidates failed; the first one with {first!r}; "
            "see `.causes` for each",
        )

    @classmethod
    def of(cls, causes: Sequence[BaseException]) -> AllCandidatesFailedError:
        """Make the error for these causes, also of their type where they have one in common."""
        kind: Any = _common_type(causes)
        if kind is None or issubclass(kind, SRRGuardError):
            return cls(causes)
        try:
            error = _also_of(kind).__new__(_also_of(kind))
        except TypeError:  # a type that cannot be combined, or needs arguments
            return cls(causes)
        _copy_fields(causes[0], error)
        AllCandidatesFailedError.__init__(error, causes)
        return error


def _common_type(causes: Sequence[BaseException]) -> type[BaseException] | None:
    """The nearest type that all causes have in common; None if it says nothing."""
    if not causes:
        return None
    shared = (kind for kind in type(causes[0]).__mro__ if all(isinstance(c, kind) for c in causes))
    nearest: Any = next(shared)
    return None if nearest in (object, BaseException, Exception) else nearest


def _copy_fields(cause: BaseException, error: BaseException) -> None:
    """Give an error the attributes of another of its type: also `errno`, `name` and the like."""
    vars(error).update(vars(cause))
    for kind in type(cause).__mro__:
        for name, field in vars(kind).items():
            if isinstance(field, (MemberDescriptorType, GetSetDescriptorType)) and name[0] != "_":
                with suppress(AttributeError, TypeError):  # not set, or read-only
                    setattr(error, name, getattr(cause, name))


@cache
def _also_of(kind: Any) -> type[AllCandidatesFailedError]:
    """`AllCandidatesFailedError` that is also an error of this type."""

    def as_text(self: BaseException) -> str:
        return str(self.args[0])

    def reduce(self: AllCandidatesFailedError) -> Any:
        return AllCandidatesFailedError.of, (self.causes,), vars(self)

    members = {
        "__str__": as_text,
        "__reduce__": reduce,
        "__doc__": AllCandidatesFailedError.__doc__,
    }
    return type("AllCandidatesFailedError", (AllCandidatesFailedError, kind), members)


class NotEnoughCandidatesError(SamplingError):
    """Fewer candidates came back than `SamplingPolicy.min_candidates` asks for.

    Attributes:
        causes: The exceptions of the candidates that failed.
    """

    def __init__(self, *, succeeded: int, required: int, causes: Sequence[BaseException]) -> None:
        self.causes = tuple(causes)
        super().__init__(
            f"{succeeded} candidates succeeded but min_candidates={required}; "
            f"{len(self.causes)} failed, see `.causes`"
        )


class WithheldError(SamplingError):
    """No answer may be passed on, and the policy says to raise, or a refusal has no form.

    Attributes:
        decision: What was decided and why; its text is never part of the message.
    """

    def __init__(self, decision: Decision, message: str) -> None:
        self.decision = decision
        super().__init__(message)


class PromptRefusedError(WithheldError):
    """The prompt gate refused the request, and no refusal can stand in for an answer."""

    def __init__(self, decision: Decision) -> None:
        seen = decision.gate.p_harmful if decision.gate else None
        super().__init__(
            decision,
            f"the prompt has p_harmful={float('nan') if seen is None else seen:.3f}, above "
            "`GatePolicy.refuse_above`",
        )


class BelowThresholdError(WithheldError):
    """The best candidate is not safe enough and the policy says to raise."""

    def __init__(self, decision: Decision, *, threshold: float) -> None:
        best = max(decision.ranking.p_safe) if decision.ranking else float("nan")
        super().__init__(
            decision,
            f"the best of {decision.distinct} distinct candidates has p_safe={best:.3f}, "
            f"below threshold={threshold}",
        )


class UnreadableError(WithheldError):
    """The answers that are left hold parts that cannot be read as text, and must not pass.

    Attributes:
        kinds: Kinds of the parts, such as `image`.
    """

    def __init__(self, decision: Decision, *, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        super().__init__(
            decision,
            f"the answer holds {', '.join(map(repr, kinds))}, which cannot be read as text and so "
            "cannot be scored: ask the model for text, or let such answers pass with "
            "`DecisionPolicy(unreadable='pass')`",
        )
