"""Scorer and gateway replicas on a Ray cluster (extra `ray`).

serve run srr_guard_integrations.ray_serve:build scorers=4 gateways=2 config=serve.yaml
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from srr_guard import Conversation, Ranking
from srr_guard.errors import (
    ConfigurationError,
    InvalidInputError,
    MissingExtraError,
    ScorerBusyError,
    ScorerUnreachableError,
    ScoringError,
    SRRGuardError,
)
from srr_guard.protocols import ResponseScorer
from srr_guard.serving import GatewayConfig, create_app, load_config
from srr_guard.serving.gateway import scorer_of

try:
    from ray import serve
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig
    from ray.serve.exceptions import BackPressureError, RayServeException
    from ray.serve.handle import DeploymentHandle
except ImportError as error:
    raise MissingExtraError(
        package="ray", extra="ray", purpose="srr_guard_integrations.ray_serve"
    ) from error

STICKY = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


class FleetSettings(BaseModel):
    """How large the fleet is.

    Attributes:
        config: YAML file of the gateways (see `srr-guard serve`), at this path on each node; None:
            the defaults, which only score.
        scorers: Scorer replicas, at least.
        max_scorers: At most; None: as many as `scorers`.
        gateways: Gateway replicas, at least.
        max_gateways: At most; None: as many as `gateways`.
        scorer_cpus: CPU cores of one scorer replica, which are the threads of its torch.
        scorer_gpus: GPUs of one scorer replica; may be a fraction.
        at_once: Requests that one scorer replica holds, and batches by its budget of tokens; more
            go to the next replica, or wait.
        busy_at: Requests per scorer replica that autoscaling aims at.
        grow_after: Seconds for which more replicas must be wanted before there are more.
        shrink_after: Seconds for which fewer must be wanted before there are fewer.
        attempts: Calls per ranking: one more for each replica that is lost meanwhile.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path | None = None
    scorers: int = Field(default=2, ge=1)
    max_scorers: int | None = Field(default=None, ge=1)
    gateways: int = Field(default=1, ge=1)
    max_gateways: int | None = Field(default=None, ge=1)
    scorer_cpus: float = Field(default=1.0, gt=0.0)
    scorer_gpus: float = Field(default=0.0, ge=0.0)
    at_once: int = Field(default=64, ge=1)
    busy_at: float = Field(default=16.0, gt=0.0)
    grow_after: float = Field(default=30.0, ge=0.0)
    shrink_after: float = Field(default=600.0, ge=0.0)
    attempts: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _ranges(self) -> FleetSettings:
        for what in ("scorers", "gateways"):
            least, most = getattr(self, what), getattr(self, f"max_{what}")
            if most is not None and most < least:
                raise ValueError(f"max_{what}={most} is below {what}={least}")
        return self


def build(settings: FleetSettings) -> serve.Application:
    """Make the application that `serve run` and a RayService start.

    Raises:
        ConfigurationError: The gateways' file has a mistake, or settings that a fleet cannot keep.
    """
    return fleet(settings)


def fleet(
    settings: FleetSettings,
    *,
    config: GatewayConfig | None = None,
    make_scorer: Callable[[], ResponseScorer] | None = None,
) -> serve.Application:
    """Make a fleet: gateways in front, scorers behind, both as Ray Serve deployments.

    All turns of a conversation go to the same scorer replica while it lives and has room, so that
    its prompt is read once. Scoring has no side effects: a ranking whose replica is lost is asked
    of another one.

    Args:
        settings: How large it is.
        config: Settings of the gateways in place of the file.
        make_scorer: Makes the scorer of a replica, there; None: the one of the gateways' settings.

    Raises:
        ConfigurationError: The gateways' file has a mistake, or settings that a fleet cannot keep.

    Example:
        >>> from srr_guard.testing import FakeScorer
        >>> app = fleet(
        ...     FleetSettings(scorers=2),
        ...     config=GatewayConfig(),
        ...     make_scorer=lambda: FakeScorer(lambda prompt, answer: 0.9),
        ... )  # serve.run(app) starts it
    """
    found = config or load_config(settings.config)
    _require_fleet(found, settings)
    scorers: Any = serve.deployment(ScorerReplica).options(
        name="scorer",
        max_ongoing_requests=settings.at_once,
        ray_actor_options={"num_cpus": settings.scorer_cpus, "num_gpus": settings.scorer_gpus},
        request_router_config=RequestRouterConfig(request_router_class=STICKY),
        **_replicas(settings, settings.scorers, settings.max_scorers, settings.busy_at),
    )
    gateways: Any = serve.deployment(serve.ingress()(GatewayReplica)).options(
        name="gateway",
        max_ongoing_requests=found.limits.requests + 1,  # it turns the one too many away itself
        ray_actor_options={"num_cpus": 0.5},
        **_replicas(settings, settings.gateways, settings.max_gateways, found.limits.requests / 2),
    )
    make = make_scorer or _Making(found)
    return gateways.bind(found, scorers.bind(make), settings.attempts)


class RayScorer:
    """Ranks candidates with the scorer replicas behind a handle (see `ResponseScorer`).

    A ranking whose replica is lost is asked of another one. If none gives it, an error is raised:
    no answer passes unscored.

    Args:
        handle: Of a deployment of `ScorerReplica`.
        attempts: Calls per ranking.

    Raises:
        ConfigurationError: `attempts` is below 1.

    Example:
        >>> handle = serve.get_deployment_handle("scorer", "default")  # doctest: +SKIP
        >>> RayScorer(handle).score("a question", ["an answer"])  # doctest: +SKIP
    """

    def __init__(self, handle: DeploymentHandle[Any], *, attempts: int = 4) -> None:
        if attempts < 1:
            raise ConfigurationError(f"attempts={attempts!r} makes no call: give at least 1")
        self._handle = handle
        self._again: dict[str, Any] = {
            "stop": stop_after_attempt(attempts),
            "wait": wait_random_exponential(multiplier=0.05, max=2.0),
            "retry": retry_if_exception_type(ScorerUnreachableError),
            "reraise": True,
        }

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Rank candidates; not on a thread with a running event loop.

        Raises:
            InvalidInputError: The conversation or a candidate cannot be read.
            ScorerBusyError: Too many requests wait for a replica.
            ScorerUnreachableError: No replica gave a ranking.
            ScoringError: A replica failed.
        """
        call = self._call(conversation, candidates)

        def once() -> Ranking:
            try:
                return call().result()
            except (RayError, RayServeException) as error:
                raise _as_ours(error) from error

        return Retrying(**self._again)(once)

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Like `score`, without blocking the event loop. Cancelling it ends the call."""
        call = self._call(conversation, candidates)

        async def once() -> Ranking:
            response = call()
            try:
                return await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except (RayError, RayServeException) as error:
                raise _as_ours(error) from error

        return await AsyncRetrying(**self._again)(once)

    def _call(self, conversation: Any, candidates: Sequence[str]) -> Callable[[], Any]:
        asked = Conversation.of(conversation)
        if isinstance(candidates, str) or not all(isinstance(text, str) for text in candidates):
            raise InvalidInputError("candidates must be a list of texts")
        handle = self._handle.options(method_name="score", session_id=affinity(asked))
        return lambda: handle.remote(asked, list(candidates))


def affinity(conversation: Conversation) -> str:
    """A key that all turns of a conversation share: of what stands before its first answer."""
    digest = hashlib.sha256()
    for turn in conversation.turns:
        if turn.role == "assistant":
            break
        digest.update(f"{turn.role}\0{turn.text}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class ScorerReplica:
    """One scorer of the fleet: a model, whose requests share passes by a budget of tokens.

    Args:
        make: Makes the scorer.

    Example:
        >>> from srr_guard.testing import FakeScorer
        >>> replica = ScorerReplica(lambda: FakeScorer(lambda prompt, answer: 0.9))
        >>> asyncio.run(replica.score(Conversation.of("a question"), ["an answer"])).p_safe
        (0.9,)
    """

    def __init__(self, make: Callable[[], ResponseScorer]) -> None:
        self._scorer = make()
        self._scorer.score("Is this replica ready?", ["Yes, it is."])

    async def score(self, conversation: Conversation, candidates: Sequence[str]) -> Ranking:
        """Rank candidates."""
        return await self._scorer.ascore(conversation, candidates)


class GatewayReplica:
    """One gateway of the fleet: the application of `srr-guard serve`, with the fleet's scorers.

    Args:
        config: Its settings.
        scorers: Handle of the scorers.
        attempts: Calls per ranking.
    """

    def __init__(self, config: GatewayConfig, scorers: Any, attempts: int) -> None:
        self._config = config
        self._scorer = RayScorer(scorers, attempts=attempts)

    def __serve_build_asgi_app__(self) -> Any:
        """Make the application; Ray Serve calls this after the constructor."""
        return _without_id(create_app(self._config, scorer=self._scorer))


def _without_id(app: Any) -> Any:
    """An ASGI application whose answers lack `x-request-id`: Ray's proxy adds the same one."""

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message["headers"] if k.lower() != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await app(scope, receive, sending)

    return answering


class _Making:
    """Makes the scorer of the gateways' settings; travels to the replicas."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config.scorer

    def __call__(self) -> ResponseScorer:
        return scorer_of(self._config)


def _replicas(
    settings: FleetSettings, least: int, most: int | None, busy_at: float
) -> dict[str, Any]:
    if most is None or most == least:
        return {"num_replicas": least}
    scaling = AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=busy_at,
        upscale_delay_s=settings.grow_after,
        downscale_delay_s=settings.shrink_after,
    )
    return {"autoscaling_config": scaling}


def _require_fleet(config: GatewayConfig, settings: FleetSettings) -> None:
    if config.local is not None:
        raise ConfigurationError(
            "local: a fleet's gateways hold no model: give `upstreams`, such as a vLLM service"
        )
    if config.audit is not None and max(settings.gateways, settings.max_gateways or 0) > 1:
        raise ConfigurationError(
            f"audit={str(config.audit)!r}: a file belongs to one process, and there may be "
            "several gateways: leave it out and set `telemetry: true`, or take one gateway"
        )
    gated = [name for name, policy in config.policies.items() if policy.gating is not None]
    if gated:
        raise ConfigurationError(
            f"the policy {gated[0]!r} has gating, and the replicas assess no prompts: leave it out"
        )


def _as_ours(error: Exception) -> SRRGuardError:
    """The error of this library that stands for one of Ray's."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, SRRGuardError):
            return cause
        if not isinstance(cause, RayActorError):
            return ScoringError(f"a scorer replica failed with {type(cause).__name__}")
    if isinstance(error, BackPressureError):
        return ScorerBusyError("too many requests wait for a scorer replica")
    return ScorerUnreachableError(f"no scorer replica answers: {type(error).__name__}")
