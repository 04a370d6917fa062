"""The settings of the gateway, in one tree; `config_file.py` reads them."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from srr_guard.policy import DecisionPolicy, GatePolicy, Policies, SamplingPolicy
from srr_guard.reference.spec import Device, DType

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""A name that is safe in logs, labels and headers."""

Override = Literal["n", "accept_at", "threshold", "prefer", "min_familiarity"]
"""A setting that a request may change."""


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give an address that begins with http:// or https://")
    if parts.username or parts.password:
        raise ValueError("an address holds no password: give `key`, `key_env` or `key_file`")
    return url.rstrip("/")


HttpUrl = Annotated[str, AfterValidator(_http_url)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _WithSecret(_Section):
    """A secret, from one of three places.

    Attributes:
        key: The secret itself.
        key_env: The environment variable that holds it.
        key_file: The file that holds it.
    """

    key: SecretStr | None = None
    key_env: str | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = [n for n in ("key", "key_env", "key_file") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]}: give one of them")
        self.secret()
        return self

    def secret(self) -> str | None:
        """The secret; None if none is given.

        Raises:
            ValueError: It is empty, or is not where it should be.
        """
        found: str | None = None
        if self.key is not None:
            found = self.key.get_secret_value()
        elif self.key_env is not None:
            found = os.environ.get(self.key_env)
            if found is None:
                raise ValueError(f"the environment variable {self.key_env!r} is not set")
        elif self.key_file is not None:
            try:
                found = self.key_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"the key in {str(self.key_file)!r} cannot be read: {error}"
                ) from error
        if found is not None and not (found.isascii() and found.isprintable() and found.strip()):
            raise ValueError("a key is one line of printable ASCII characters, and not empty")
        return found


class UpstreamConfig(_WithSecret):
    """An OpenAI-compatible server that answers.

    Attributes:
        url: Its address up to and with `/v1`.
        name: In logs and metrics; default: host and port.
        weight: Share of the calls, relative to the other servers.
        fallback: Asked only when no other server answers.
        models: Models that it is asked for; None: any.
        model: Sent in place of the model that was asked for.
        tokens_field: Field of chat completions by which it is told `limits.output_tokens`; None:
            `max_completion_tokens` for api.openai.com, whose newer models take nothing else,
            `max_tokens` for all others.
        timeout: Seconds until it must have answered.
        connections: Most connections to it.
        failures: Failures in a row after which it is left alone for a while.
        rest: Seconds of the longest rest; the first lasts one second, each further one twice
            as long.
    """

    url: HttpUrl
    name: Name | None = None
    weight: float = Field(default=1.0, gt=0.0)
    fallback: bool = False
    models: tuple[str, ...] | None = Field(default=None, min_length=1)
    model: str | None = None
    tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    timeout: float = Field(default=60.0, gt=0.0)
    connections: int = Field(default=256, ge=1)
    failures: int = Field(default=3, ge=1)
    rest: float = Field(default=10.0, gt=0.0)

    @property
    def label(self) -> str:
        """Its name in logs and metrics."""
        return self.name or urlsplit(self.url).netloc

    @property
    def limit_field(self) -> str:
        """Where a chat completion says how many tokens its answer may have."""
        newer = urlsplit(self.url).hostname == "api.openai.com"
        return self.tokens_field or ("max_completion_tokens" if newer else "max_tokens")


class LocalConfig(_Section):
    """The model on this machine (see `LocalChatModel`).

    Attributes:
        name: Its id in `/v1/models`.
        max_new_tokens: Most tokens of an answer.
    """

    model: str | None = None
    file: str | None = None
    revision: str | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    name: Name = "srr-guard-local"
    max_new_tokens: int = Field(default=256, ge=1)


class ScorerConfig(_WithSecret):
    """The scorer: on this machine (`name`, `reference`), or remote (`urls`).

    Attributes:
        name: A shipped bundle's name, a folder, or a hub id; None: the default bundle.
        reference: The reference LLM; None: the one that the bundle names.
        urls: Addresses of servers that offer `/v1/score`, up to and with `/v1`.
        timeout: Seconds one call of a server may take.
    """

    name: str | None = None
    reference: str | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    urls: tuple[HttpUrl, ...] = ()
    timeout: float = Field(default=30.0, gt=0.0)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.urls and (self.name or self.reference):
            raise ValueError("urls stand beside name or reference: the server knows its own scorer")
        return self


class OverridesConfig(_Section):
    """What a request may change of its policy, in `extra_body={"srr_guard": {...}}`.

    Attributes:
        allow: Settings that it may change.
        max_n: Most candidates; None: as many as the policy says.
        min_threshold: Lowest threshold; None: the policy's own, which can only be raised.
    """

    allow: tuple[Override, ...] = ("n", "accept_at", "threshold", "min_familiarity")
    max_n: int | None = Field(default=None, ge=1, le=256)
    min_threshold: float | None = Field(default=None, ge=0.0, le=1.0)


class PolicyConfig(_Section):
    """A named policy.

    Attributes:
        file: A file of `srr-guard tune` or `Policies.save` to begin with.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        gating: What is decided from the prompt alone, by the scorer's own gate; None: nothing.
        overrides: What a request may change of it.
    """

    file: Path | None = None
    sampling: SamplingPolicy = SamplingPolicy()
    decision: DecisionPolicy = DecisionPolicy()
    gating: GatePolicy | None = None
    overrides: OverridesConfig = OverridesConfig()

    @model_validator(mode="after")
    def _read_file(self) -> Self:
        if self.file is not None:
            base = Policies.load(self.file)
            for name in ("sampling", "decision"):
                own = getattr(self, name)
                changed = {field: getattr(own, field) for field in own.model_fields_set}
                merged = type(own)(**{**dict(getattr(base, name)), **changed})
                object.__setattr__(self, name, merged)
            if "gating" not in self.model_fields_set:
                object.__setattr__(self, "gating", base.gating)
        if self.sampling.read_ahead:
            raise ValueError(
                "sampling.read_ahead: the gateway streams candidates only to cut them off: set "
                "cut_below alone, or leave it out"
            )
        for name, policy in (("sampling", self.sampling), ("gating", self.gating)):
            if policy is not None and policy.plan is not None:
                raise ValueError(
                    f"{name}.plan: the gateway's candidates follow no recipes; leave it out, or "
                    "set temperatures and system_prompts"
                )
        return self


class KeyConfig(_WithSecret):
    """A client's key.

    Attributes:
        name: In logs and metrics.
        sha256: SHA-256 of the key in hexadecimal digits, in place of the key.
        policies: Policies that its requests may name; the first one is the default.
        requests_per_minute: None: no limit.
        concurrent: Most requests at a time; None: no limit.
    """

    name: Name
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    policies: tuple[Name, ...] = Field(default=("default",), min_length=1)
    requests_per_minute: float | None = Field(default=None, gt=0.0)
    concurrent: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _some_key(self) -> Self:
        if (self.secret() is None) == (self.sha256 is None):
            raise ValueError("give one of key, key_env, key_file and sha256")
        return self

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key."""
        if self.sha256 is not None:
            return bytes.fromhex(self.sha256)
        return sha256((self.secret() or "").encode()).digest()


class LimitsConfig(_Section):
    """Limits of the whole gateway.

    Attributes:
        body_bytes: Largest body of a request.
        body_seconds: Seconds until the whole body must be here.
        head_seconds: Seconds until the head of a request must be here.
        send_seconds: Seconds that a client may leave a piece of an answer unread.
        requests: Most requests at a time; more are turned away with 429.
        output_tokens: Most tokens that a request may ask for; also set where it asks for no
            number. None: no limit.
        answers: Most answers in one request for scores.
        answer_bytes: Largest answer of an upstream server.
        shutdown_seconds: Seconds that accepted requests have to finish; None: as long as needed.
    """

    body_bytes: int = Field(default=1_000_000, ge=1)
    body_seconds: float = Field(default=20.0, gt=0.0)
    head_seconds: float = Field(default=10.0, gt=0.0)
    send_seconds: float = Field(default=60.0, gt=0.0)
    requests: int = Field(default=256, ge=1)
    output_tokens: int | None = Field(default=None, ge=1)
    answers: int = Field(default=64, ge=1)
    answer_bytes: int = Field(default=16_000_000, ge=1)
    shutdown_seconds: int | None = Field(default=None, ge=1)


class GatewayConfig(BaseSettings):
    """All settings of the gateway.

    Read from arguments first, then from environment variables such as
    `SRR_GUARD_SERVE_LIMITS__REQUESTS`, then from the file.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0: any free one.
        upstreams: Servers that answer.
        local: The local model answers.
        scorer: Ranks the answers.
        policies: By name; `default` always exists.
        keys: Keys of clients; without any, everyone who reaches the port is served.
        limits: Limits of the whole gateway.
        audit: File for an audit log (see `AuditLog`), texts redacted; None: none.
        telemetry: OpenTelemetry spans and metrics of the global providers.
        metrics: Prometheus metrics on `/metrics`.
        logs: Form of the log lines.

    Raises:
        ConfigurationError: From `load_config`, with the line of the file.

    Example:
        >>> config = GatewayConfig(upstreams=[{"url": "http://127.0.0.1:8000/v1"}])
        >>> config.upstreams[0].label, config.policies["default"].sampling.n
        ('127.0.0.1:8000', 4)
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="SRR_GUARD_SERVE_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    upstreams: tuple[UpstreamConfig, ...] = ()
    local: LocalConfig | None = None
    scorer: ScorerConfig = ScorerConfig()
    policies: dict[Name, PolicyConfig] = Field(default_factory=dict)
    keys: tuple[KeyConfig, ...] = ()
    limits: LimitsConfig = LimitsConfig()
    audit: Path | None = None
    telemetry: bool = False
    metrics: bool = True
    logs: Literal["json", "text"] = "json"

    @model_validator(mode="before")
    @classmethod
    def _default_policy(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("policies", {}), dict):
            return {**data, "policies": {"default": {}, **data.get("policies", {})}}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.upstreams and self.local is not None:
            raise ValueError("upstreams and local: one of them answers, give one")
        if self.upstreams and all(upstream.fallback for upstream in self.upstreams):
            raise ValueError("all upstreams are fallbacks: let one be none")
        gated = [name for name, policy in self.policies.items() if policy.gating is not None]
        if self.scorer.urls and gated:
            raise ValueError(
                f"the policy {gated[0]!r} has gating, and remote scorers (scorer.urls) assess no "
                "prompts: leave one of them out"
            )
        cut = [n for n, policy in self.policies.items() if policy.sampling.cut_below is not None]
        if self.scorer.urls and self.local is not None and cut:
            raise ValueError(
                f"the policy {cut[0]!r} has cut_below, and remote scorers (scorer.urls) follow no "
                "local model: leave one of them out"
            )
        labels = [upstream.label for upstream in self.upstreams]
        for what, names in (("upstreams", labels), ("keys", [key.name for key in self.keys])):
            if len(set(names)) < len(names):
                raise ValueError(f"two {what} have the same name: give each a `name` of its own")
        if len({key.digest for key in self.keys}) < len(self.keys):
            raise ValueError("two keys are equal")
        for key in self.keys:
            if unknown := set(key.policies) - set(self.policies):
                raise ValueError(
                    f"the key {key.name!r} names the policy {sorted(unknown)[0]!r}, and there is "
                    f"none: there are {', '.join(sorted(self.policies))}"
                )
        return self
