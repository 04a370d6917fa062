"""Settings: what is read from where, and what mistakes say."""

from __future__ import annotations

import doctest

import pytest
from typer.testing import CliRunner

import srr_guard.breaker
import srr_guard.serving
import srr_guard.serving.app
import srr_guard.serving.config
from srr_guard import DecisionPolicy, SamplingPolicy
from srr_guard.cli import app
from srr_guard.errors import ConfigurationError
from srr_guard.policy import Policies
from srr_guard.serving import load_config

WHOLE = """
host: 127.0.0.1
port: 9000
upstreams:
  - url: https://api.example.com/v1/
    name: main
    key_env: MAIN_KEY
    weight: 2
  - {url: "http://10.0.0.7:8000/v1", fallback: true, models: [a, b], model: real, timeout: 5}
scorer:
  urls: [http://10.0.0.8:8321/v1]
policies:
  default:
    sampling: {n: 2, accept_at: 0.5, retry_on: [builtins.OSError]}
  strict:
    decision: {threshold: 0.9, below_threshold: raise}
    overrides: {allow: [n], max_n: 16}
keys:
  - {name: web, key_file: key.txt, policies: [strict], requests_per_minute: 60, concurrent: 4}
limits: {requests: 8, output_tokens: 512, shutdown_seconds: 30}
logs: text
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAIN_KEY", "secret-main")
    (tmp_path / "key.txt").write_text("secret-web\n")
    return tmp_path


def load(folder, text, **arguments):
    (folder / "serve.yaml").write_text(text)
    return load_config("serve.yaml", **arguments)


def test_a_whole_file(folder):
    config = load(folder, WHOLE)
    main, spare = config.upstreams
    assert (main.url, main.label, main.secret()) == (
        "https://api.example.com/v1",
        "main",
        "secret-main",
    )
    assert (spare.label, spare.fallback, spare.models) == ("10.0.0.7:8000", True, ("a", "b"))
    assert config.policies["default"].sampling == SamplingPolicy(
        n=2, accept_at=0.5, retry_on=(OSError,)
    )
    assert config.policies["strict"].decision.below_threshold == "raise"
    assert config.keys[0].secret() == "secret-web"
    assert "secret" not in repr(config).replace("SecretStr", "")


def test_arguments_win_over_the_environment_and_this_over_the_file(folder, monkeypatch):
    monkeypatch.setenv("SRR_GUARD_SERVE_PORT", "9001")
    monkeypatch.setenv("SRR_GUARD_SERVE_LIMITS__REQUESTS", "9")
    monkeypatch.setenv("SRR_GUARD_SERVE_HOST", "::1")
    config = load(folder, WHOLE, host="0.0.0.0", local=None)
    assert (config.host, config.port) == ("0.0.0.0", 9001)
    assert (config.limits.requests, config.limits.output_tokens) == (9, 512)


def test_nothing_at_all_is_a_server_that_scores(folder):
    config = load_config()
    assert (config.host, config.upstreams, config.local) == ("127.0.0.1", (), None)
    assert list(config.policies) == ["default"]
    assert load(folder, "").port == config.port


def test_a_policy_may_begin_with_a_file(folder):
    Policies(decision=DecisionPolicy(threshold=0.7), sampling=SamplingPolicy(n=2)).save(
        "tuned.json"
    )
    text = "policies: {default: {file: tuned.json, sampling: {n: 3}}}"
    policy = load(folder, text).policies["default"]
    assert (policy.sampling.n, policy.decision.threshold) == (3, 0.7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port: 70000", "serve.yaml:1: port=70000"),
        ("\nprot: 1", "serve.yaml:2: prot=1: Extra inputs"),
        ("port: 1\nport: 2", "serve.yaml:2: 'port' is given twice"),
        ("\n1: 2", "serve.yaml:2: '1' is no name: put it in quotes"),
        ("policies: {a: {sampling: {no: 1}}}", "serve.yaml:1: 'no' is no name"),
        ("keys: &a [*a]", "serve.yaml:1: an alias holds itself"),
        ("- a", "serve.yaml:1: give settings as"),
        ("a: [", "serve.yaml:1: not valid YAML"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
        ("upstreams:\n  - weight: 1", "serve.yaml:2: upstreams.0.url: Field required"),
        ("upstreams:\n  - url: ftp://x", "serve.yaml:2: upstreams.0.url='ftp://x': give an"),
        ("upstreams:\n  - url: http://u:p@x/v1", "holds no password"),
        ("upstreams: [{url: 'http://x', weight: 0}]", "upstreams.0.weight=0"),
        ("upstreams: [{url: 'http://x', fallback: true}]", "all upstreams are fallbacks"),
        ("upstreams: [{url: 'http://x'}, {url: 'http://x'}]", "two upstreams have the same name"),
        ("upstreams: [{url: 'http://x'}]\nlocal: {}", "upstreams and local"),
        ("upstreams: [{url: 'http://x', key: a, key_env: B}]", "key and key_env: give one"),
        ("upstreams: [{url: 'http://x', key_env: NO_SUCH}]", "variable 'NO_SUCH' is not set"),
        ("upstreams: [{url: 'http://x', key_file: nowhere}]", "'nowhere' cannot be read"),
        ("policies:\n  a:\n    decision:\n      threshold: 2", "serve.yaml:4: policies.a.decision"),
        ("policies:\n  a:\n    sampling: {n: 2, initial: 3}", "serve.yaml:3: policies.a.sampling"),
        ("policies: {a: {sampling: {read_ahead: true}}}", "read_ahead: the gateway streams"),
        ("policies: {a: {sampling: {plan: [{kind: plain}]}}}", "sampling.plan: the gateway's"),
        ("policies: {a: {gating: {plan: [{kind: plain}]}}}", "gating.plan: the gateway's"),
        ("policies: {a: {gating: {benign_below: 2}}}", "policies.a.gating"),
        ("policies: {a: {gating: {}}}\nscorer: {urls: ['http://x']}", "assess no prompts"),
        ("policies: {a: {file: nowhere.json}}", "'nowhere.json' cannot be read"),
        ("policies: {'a b': {}}", "policies.a b"),
        ("policies: []", "policies"),
        ("keys: [{name: a}]", "give one of key, key_env, key_file and sha256"),
        ("keys: [{name: a, key: x}, {name: a, key: y}]", "two keys have the same name"),
        ("keys: [{name: a, key: x}, {name: b, key: x}]", "two keys are equal"),
        ("keys: [{name: a, key: x, policies: [other]}]", "the policy 'other', and there is none"),
        ("keys: [{name: a, key: ''}]", "and not empty"),
        ("scorer: {urls: ['http://x'], name: y}", "urls stand beside name"),
        ("limits: {requests: 0}", "limits.requests=0"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_line(folder, text, said):
    with pytest.raises(ConfigurationError) as raised:
        load(folder, text)
    assert said in str(raised.value)


def test_no_mistake_tells_a_secret(folder):
    with pytest.raises(ConfigurationError) as raised:
        load(folder, "keys: [{name: a, key: {hunter2: 1}}, {name: 'b b', key: hunter2}]")
    assert "hunter2" not in str(raised.value)
    assert "keys.1.name='b b'" in str(raised.value)


def test_files_that_are_not_there_or_no_text(folder):
    with pytest.raises(ConfigurationError, match=r"'nowhere.yaml' cannot be read"):
        load_config("nowhere.yaml")
    (folder / "serve.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"'serve.yaml' cannot be read"):
        load_config("serve.yaml")


def test_a_misspelt_variable(monkeypatch):
    monkeypatch.setenv("SRR_GUARD_SERVE_PROT", "1")
    with pytest.raises(ConfigurationError, match="'SRR_GUARD_SERVE_PROT' sets nothing"):
        load_config()


def test_a_variable_that_is_no_json(monkeypatch):
    monkeypatch.setenv("SRR_GUARD_SERVE_KEYS", "not json")
    with pytest.raises(ConfigurationError, match="keys"):
        load_config()


def test_check_from_the_command_line(folder):
    (folder / "serve.yaml").write_text(WHOLE)
    said = CliRunner().invoke(app, ["serve", "--config", "serve.yaml", "--check"])
    assert said.output == ("ok: 2 upstreams, local model off, 1 keys, policies default, strict\n")
    arguments = ["--upstream", "http://a/v1", "--fallback", "http://b/v1", "--check"]
    assert CliRunner().invoke(app, ["serve", *arguments]).output.startswith("ok: 2 upstreams")
    said = CliRunner().invoke(app, ["serve", "--local", "--scorer-url", "http://a/v1", "--check"])
    assert said.output.startswith("ok: 0 upstreams, local model on")
    said = CliRunner().invoke(app, ["serve", "--upstream", "nonsense", "--check"])
    assert "arguments or environment: upstreams.0.url='nonsense'" in str(said.exception)


def test_the_command_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = CliRunner().invoke(app, ["serve", "--local"])
    assert 'pip install "srr-guard[serve]"' in str(said.exception)


@pytest.mark.parametrize("module", ["breaker", "serving.config", "serving.app"])
def test_docstring_examples(module):
    import importlib

    result = doctest.testmod(importlib.import_module(f"srr_guard.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_exported_names():
    assert srr_guard.serving.__all__ == dir(srr_guard.serving)
    for name in srr_guard.serving.__all__:
        assert getattr(srr_guard.serving, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = srr_guard.serving.nonsense
