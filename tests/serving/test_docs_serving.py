"""Every block of docs/serving.md: code runs, settings load, commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from servers import gateway
from typer.main import get_command

from srr_guard.cli import app
from srr_guard.serving import load_config
from srr_guard.serving.litellm import PATH

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_code_runs(upstream, capsys):
    keys = [{"name": "web", "key": "key-of-web"}]

    def fn(prompt, answer):
        return 0.9 if {"good", "light", "Water"} & set(answer.split()) else 0.1

    with gateway(upstream, fn=fn, keys=keys) as served:
        names: dict[str, object] = {}
        for block in blocks("python"):
            code = block.replace("http://127.0.0.1:8321", served.root)
            exec(compile(code, str(PAGE), "exec"), names)
        names["client"].close()  # type: ignore[attr-defined]
    assert capsys.readouterr().out.splitlines() == [
        "a good answer",
        "best_of_n 0.9",
        "1 pass",
        "Water it now and then.",
    ]


def test_the_settings_load(tmp_path, monkeypatch):
    ours, cutting, litellm = blocks("yaml")
    monkeypatch.chdir(tmp_path)
    Path("serve.yaml").write_text(ours)
    Path("batch.key").write_text("key-of-batch")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("WEB_KEY", "key-of-web")
    config = load_config("serve.yaml")
    assert [upstream.label for upstream in config.upstreams] == ["api.openai.com", "spare"]
    Path("cutting.yaml").write_text(cutting)
    assert load_config("cutting.yaml").policies["default"].sampling.cut_below == 0.3
    (guardrail,) = yaml.safe_load(litellm)["guardrails"]
    assert guardrail["litellm_params"]["guardrail"] == "generic_guardrail_api"
    assert PATH.rsplit("/", maxsplit=1)[-1] == "litellm_basic_guardrail_api"


COMMANDS = [
    line.removeprefix("$ ").split(" #")[0]
    for block in blocks("console")
    for line in block.splitlines()
    if "srr-guard " in line and "pip" not in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_exist(command):
    _, name, *arguments = shlex.split(command)
    found = get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {option for parameter in found.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= options
