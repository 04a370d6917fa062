"""Chat templates in the shape of those of public models, and a tokenizer for each.

The files in `tests/reference/templates` are ours: written for these tests so that they treat
turns as the public templates do, not copied from them. `TEMPLATES` says which is like which.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from tiny import tiny_tokenizer

from srr_guard.errors import ReferenceLoadError
from srr_guard.reference.rendering import Form, Renderer

FOLDER = Path(__file__).parents[1] / "reference" / "templates"

TEMPLATES = {
    "alpaca": "Alpaca, several turns",
    "chatml": "ChatML",
    "chatml_trimmed": "ChatML with a default system turn, trimmed",
    "command_r": "Command R (of several named templates)",
    "deepseek_r1": "DeepSeek R1",
    "deepseek_v3": "DeepSeek V3",
    "falcon": "Falcon (replaces double line breaks)",
    "gemma1": "Gemma 1",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "gpt_oss": "GPT-OSS",
    "granite": "Granite",
    "internlm2": "InternLM 2",
    "llama2": "Llama 2",
    "llama3": "Llama 3",
    "llama3_1": "Llama 3.1",
    "llama4": "Llama 4",
    "mistral_v1": "Mistral, first (no system turns)",
    "mistral_system_last": "Mistral, old (system text before the latest turn)",
    "mistral_v3": "Mistral, v3 (system text before the last user turn)",
    "mistral_tekken": "Mistral, new (Tekken)",
    "olmo2": "OLMo 2",
    "phi3": "Phi-3",
    "phi4": "Phi-4",
    "qwen2_5": "Qwen2.5",
    "qwen3": "Qwen3, thinking",
    "smollm2": "SmolLM2",
    "smollm3": "SmolLM3",
    "stablelm": "StableLM",
    "tinyllama": "TinyLlama",
    "vicuna": "Vicuna",
    "yi": "Yi",
    "zephyr": "Zephyr",
    "vision_parts": "Vision, content as a list of parts",
    "vision_strict": "Vision, list of parts, alternating turns",
    "no_system": "A template that leaves system turns out",
    "latest_only": "A template that prints the latest turn only",
    "first_line": "A template that prints first lines only",
}
"""Name of a file without its ending, and what it is like."""

PARTS = frozenset({"vision_parts", "vision_strict"})
"""Templates that take content as a list of parts only."""

REFUSED = frozenset({"latest_only", "first_line"})
"""Templates that do not print every turn's whole text."""

SHAPES = {
    "system, user": ("system", "user"),
    "several turns": ("system", "user", "assistant", "user"),
    "two users in a row": ("user", "user", "assistant", "user"),
    "tool result": ("user", "assistant", "tool", "assistant", "user"),
    "latest is the assistant's": ("system", "user", "assistant"),
}

_CONTROL = re.compile(r"<\|[^|'> ]+\|>|<｜[^｜']+｜>|</?[a-z_]+>|\[/?[A-Z_]+\]")
_PLAIN = re.compile(r"</?(think|tool_call|tool_response)>")
_MERGES = [("Ċ", "Ċ"), ("Ġ", "Ġ"), ("ĊĊ", "ĊĊ"), ("]", "Ġ"), ("Ġ", "a"), ("t", "h"), (":", "Ċ")]


@cache
def template(name: str) -> str:
    """The text of a template."""
    return (FOLDER / f"{name}.jinja").read_text()


@cache
def tokenizer(name: str) -> Any:
    """A tokenizer with this template; what looks like a control token in it is one."""
    text = template(name)
    found = sorted({match[0] for match in _CONTROL.finditer(text)})
    made = tiny_tokenizer(
        special=["<s>", "</s>", *(t for t in found if not _PLAIN.fullmatch(t))],
        plain=[t for t in found if _PLAIN.fullmatch(t)],
        merges=_MERGES,
        bos="<s>",
        eos="</s>",
        chat_template=text,
    )
    if name == "command_r":
        made.chat_template = {"tool_use": "{{ 'tools' }}", "default": text, "rag": "{{ 'rag' }}"}
    return made


def outcome(name: str, roles: tuple[str, ...]) -> Form | str:
    """`exact`, `alternating` or `refused`: how a template takes turns of these roles."""
    renderer = Renderer(tokenizer(name), template(name))
    try:
        return renderer.render([(role, f"text {i}") for i, role in enumerate(roles)]).form
    except ReferenceLoadError:
        return "refused"


def table() -> str:
    """How every template takes every shape of conversation, as Markdown."""
    lines = [["Template like that of", *SHAPES], ["---"] * (len(SHAPES) + 1)]
    lines += [
        [model, *(outcome(name, roles) for roles in SHAPES.values())]
        for name, model in TEMPLATES.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
