"""Settings that are read again while the gateway runs."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import ASK, gateway, says

from srr_guard.errors import ConfigurationError
from srr_guard.serving import GatewayConfig, load_config
from srr_guard.serving.server import _reload

KEYED = "upstreams: [{url: 'http://a/v1'}]\nkeys: [{name: a, key: k}]\n"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (None, "cannot be read"),
        ("", "keys: none is left"),
        (KEYED[:-4], "not valid YAML"),
        (KEYED.splitlines()[0], "keys: none is left"),
        (KEYED + "keys:", "'keys' is given twice"),
        (KEYED + "policies: {default: {file: nowhere.json}}", "'nowhere.json' cannot be read"),
        (KEYED + "policies: {default: {gating: {}}}", "has gating"),
        (KEYED.replace("key: k", "key_file: nowhere"), "'nowhere' cannot be read"),
        (KEYED + "1: 2", "'1' is no name"),
    ],
    ids=["deleted", "empty", "half", "keys gone", "twice", "policy", "gate", "secret", "number"],
)
def test_settings_that_make_no_sense_change_nothing(http, tmp_path, caplog, file, said):
    place = tmp_path / "serve.yaml"
    place.write_text(KEYED)
    with gateway(keys=[{"name": "a", "key": "k"}], upstreams=[{"url": "http://a/v1"}]) as served:
        before = served.app.gateway.config
        place.unlink() if file is None else place.write_text(file)
        _reload(served.app, lambda: load_config(place))
        errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert [said in error for error in errors] == [True]
        assert served.app.gateway.config is before
        assert http.post(f"{served.url}/score", json={}).status_code == 401
        place.write_text(KEYED.replace("name: a", "name: b"))
        _reload(served.app, lambda: load_config(place))
        assert [key.name for key in served.app.gateway.config.keys] == ["b"]
        metrics = http.get(f"{served.root}/metrics").text
    for outcome in ("ok", "refused"):
        assert f'srr_guard_reloads_total{{outcome="{outcome}"}} 1.0' in metrics


def test_a_reload_that_breaks_in_an_unforeseen_way_changes_nothing(http, caplog):
    def reread():
        raise AttributeError("a secret")

    with gateway() as served:
        _reload(served.app, reread)
        assert http.get(f"{served.root}/healthz").status_code == 200
    assert "the settings were not read again: AttributeError" in caplog.messages
    assert "secret" not in caplog.text


def test_no_request_is_lost_while_settings_change(http, upstream):
    upstream.script(says("a good answer"))
    files = [{}, {"decision": {"threshold": 0.95}}]
    configs = [GatewayConfig(upstreams=[{"url": upstream.url}], policies={"a": p}) for p in files]
    with gateway(upstream, policies={"a": {}}) as served, ThreadPoolExecutor(4) as pool:
        body = {"model": "m", "messages": ASK, "srr_guard": {"policy": "a"}}
        url = f"{served.url}/chat/completions"
        asked = [pool.submit(http.post, url, json=body) for _ in range(60)]
        changes = itertools.cycle([*configs, None])

        def reread():
            if (config := next(changes)) is None:
                raise ConfigurationError("no sense")
            return config

        while not all(one.done() for one in asked):
            _reload(served.app, reread)
        reasons = {one.result().json()["srr_guard"]["reason"] for one in asked}
    assert reasons <= {"best_of_n", "refused"}
