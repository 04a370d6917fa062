"""An adapter without its framework says in one line what to install."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from srr_guard.errors import MissingExtraError

DOCS = Path(__file__).parents[2] / "docs" / "adapters.md"
ADAPTERS = Path(__file__).parents[2] / "integrations" / "srr_guard_integrations"
FRAMEWORKS = {
    "any_guardrail": ("any_guardrail", "any-guardrail", "any-guardrail"),
    "dspy": ("dspy", "dspy", "dspy"),
    "fastapi": ("fastapi", "fastapi", "fastapi"),
    "haystack": ("haystack", "haystack-ai", "haystack"),
    "litellm": ("litellm", "litellm", "litellm"),
    "llama_index": ("llama_index.core", "llama-index-core", "llama-index"),
    "openai_agents": ("agents", "openai-agents", "openai-agents"),
    "ray_serve": ("ray", "ray", "ray"),
    "pydantic_ai": ("pydantic_ai", "pydantic-ai-slim", "pydantic-ai"),
}
CLIENTS = {"anthropic_client", "ollama_client", "openai_client"}
PARTS = {"__init__", "bypass", "client_parts", "openai_parts", "openai_streams", "stream_forms"}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_subclasses_say_so_on_import(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, package, extra = FRAMEWORKS[name]
    for loaded in [n for n in sys.modules if n == module or n.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"srr_guard_integrations.{name}", raising=False)
    with pytest.raises(MissingExtraError) as raised:
        importlib.import_module(f"srr_guard_integrations.{name}")
    (line,) = str(raised.value).splitlines()
    assert line.endswith(f'run `pip install "srr-guard[{extra}]"`')
    assert raised.value.package == package


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_clients_are_wrapped_without_their_packages(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name.removesuffix("_client"), None)
    monkeypatch.delitem(sys.modules, f"srr_guard_integrations.{name}", raising=False)
    importlib.import_module(f"srr_guard_integrations.{name}")


def test_every_adapter_is_here_and_in_the_table() -> None:
    found = {file.stem for file in ADAPTERS.glob("*.py")} - PARTS
    assert found == {*FRAMEWORKS, *CLIENTS, "langchain"}
    table = set(re.findall(r"^\| `([a-z_]+)`:", DOCS.read_text(), re.MULTILINE))
    assert table == found


def test_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), {})
