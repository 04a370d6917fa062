"""Turn conversations and candidates into token ids that no text can forge."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from srr_guard.conversation import Conversation, Turn
from srr_guard.errors import ReferenceLoadError
from srr_guard.reading import valid_unicode

_VERSION = 2
_SLOT = "\ue000{}\ue001"
_PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
_BLANKS = re.compile(r"(\s\s)\s{7,}")
_log = logging.getLogger("srr_guard")


@dataclass(frozen=True)
class PromptIds:
    """Token ids of a prompt.

    Attributes:
        ids: All of them, up to where the answer begins.
        request: Positions of the latest turn's text; the last token where it has none.
    """

    ids: list[int]
    request: range

    def latest(self, limit: int) -> PromptIds:
        """The last `limit` tokens."""
        gone = max(len(self.ids) - limit, 0)
        start, stop = (max(k - gone, 0) for k in (self.request.start, self.request.stop))
        ids = self.ids[gone:]
        return PromptIds(ids=ids, request=range(start, stop) or range(len(ids) - 1, len(ids)))


class PromptTemplate:
    """The tokenizer and its chat template, with the text of every turn kept as text.

    The template is rendered around numbered slots; its own pieces are encoded with control
    tokens, the turns' texts without. A user or a candidate that writes `<|im_end|>` gets the
    characters, not the token. A tokenizer without a chat template gets a plain one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = _template_of(tokenizer)

    @property
    def digest(self) -> str:
        """SHA-256 over all that turns text into ids, as hex, short."""
        known = [_VERSION, self._template, sorted(self._tokenizer.all_special_tokens)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]

    def text_ids(self, text: str) -> list[int]:
        """Encode plain text: control tokens in it stay text, nothing is added or cut off."""
        return list(
            self._tokenizer(
                valid_unicode(text),
                add_special_tokens=False,
                split_special_tokens=True,
                verbose=False,
            )["input_ids"]
        )

    def candidate_ids(self, text: str) -> list[int]:
        """Encode an answer without blank space around it, and with little within it.

        Features are means over tokens: hundreds of line breaks would drown what is said.
        """
        return self.text_ids(_BLANKS.sub(r"\1", text.strip()))

    def prompt(self, conversation: Conversation, *, limit: int) -> PromptIds:
        """Encode a conversation up to the point where the answer begins.

        A prompt over the limit keeps its system turns, its first and its latest turn; turns
        between them go first, the oldest first, then the middle of the longest turn; both
        are logged as a warning.

        Args:
            conversation: What the model was asked.
            limit: Most tokens to return.
        """
        turns = list(conversation.turns)
        prompt = self._render(turns, self.text_ids)
        whole = len(prompt.ids)
        while len(prompt.ids) > limit and (drop := _droppable(turns)) is not None:
            del turns[drop]
            prompt = self._render(turns, self.text_ids)
        room = limit
        while len(prompt.ids) > limit and room > 1:
            room //= 2
            prompt = self._render(turns, partial(self._short_ids, room=room))
        prompt = prompt.latest(limit)
        if len(prompt.ids) < whole:
            _log.warning(
                "a prompt of %d tokens was shortened to %d: kept the system turn, %d of %d turns",
                whole,
                len(prompt.ids),
                len(turns),
                len(conversation.turns),
            )
        return prompt

    def _short_ids(self, text: str, *, room: int) -> list[int]:
        ids = self.text_ids(text)
        return ids if len(ids) <= room else ids[: room - room // 2] + ids[len(ids) - room // 2 :]

    def _render(self, turns: Sequence[Turn], encode: Callable[[str], list[int]]) -> PromptIds:
        ids: list[int] = []
        request = range(0)
        rendered, texts = self._slots(turns)
        for i, text in enumerate(texts):
            before, found, rendered = rendered.partition(_SLOT.format(i))
            ids += self._control_ids(before)
            if found:
                start = len(ids)
                ids += encode(text)
                request = range(start, len(ids))
        ids += self._control_ids(rendered)
        return PromptIds(ids=ids, request=request or range(len(ids) - 1, len(ids)))

    def _slots(self, turns: Sequence[Turn]) -> tuple[str, list[str]]:
        """Render the template around slots; strict templates get alternating turns instead."""
        from jinja2.exceptions import TemplateError

        plain = [(t.role, t.text) for t in turns]
        try:
            return self._apply([role for role, _ in plain]), [text for _, text in plain]
        except TemplateError:
            merged = _alternating(plain)
            return self._apply([role for role, _ in merged]), [text for _, text in merged]

    def _apply(self, roles: Sequence[str]) -> str:
        messages = [
            {"role": "user" if role == "tool" else role, "content": _SLOT.format(i)}
            for i, role in enumerate(roles)
        ]
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
        )

    def _control_ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _template_of(tokenizer: Any) -> str:
    """The chat template: of several named ones the default, as in transformers."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise ReferenceLoadError(
                f"the tokenizer has the chat templates {sorted(template)!r} and none is called "
                "'default': save it with the one to use as its only template"
            )
        template = template["default"]
    return str(template or _PLAIN_TEMPLATE)


def _droppable(turns: Sequence[Turn]) -> int | None:
    """Index of the oldest turn that is not a system turn, the first or the latest one."""
    spoken = [i for i, turn in enumerate(turns) if turn.role != "system"]
    return spoken[1] if len(spoken) > 2 else None


def _alternating(turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Fold system turns into the user's and join neighbours of one side."""
    merged: list[tuple[str, str]] = []
    for role, text in turns:
        side = "assistant" if role == "assistant" else "user"
        if merged and merged[-1][0] == side:
            merged[-1] = (side, f"{merged[-1][1]}\n\n{text}")
        else:
            merged.append((side, text))
    return merged if merged[0][0] == "user" else [("user", ""), *merged]
