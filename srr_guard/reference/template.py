"""Turn conversations and candidates into token ids that no text can forge."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from srr_guard.conversation import Conversation, Turn
from srr_guard.errors import ConfigurationError, ReferenceLoadError
from srr_guard.reading import valid_unicode
from srr_guard.reference.rendering import Renderer, Rendering

_VERSION = 2
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

    Ordinary conversations get the very ids of `apply_chat_template`. Where a turn contains an
    added token such as `<|im_end|>` or `<think>`, the template's own pieces are encoded with
    control tokens and the turns' texts without: a user or a candidate that writes `<|im_end|>`
    gets the characters, not the token. A tokenizer without a chat template gets a plain one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = _template_of(tokenizer)
        self._renderer = Renderer(tokenizer, self._template)
        self._control = _control_tokens(tokenizer)

    @property
    def digest(self) -> str:
        """SHA-256 over all that turns text into ids, as hex, short."""
        known = [_VERSION, self._template, sorted(self._tokenizer.all_special_tokens)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]

    def text_ids(self, text: str) -> list[int]:
        """Encode plain text: control tokens in it stay text, nothing is added or cut off."""
        text = valid_unicode(text)
        ids, _ = self._encoded(text, split_special_tokens=True)
        if self._control.keys().isdisjoint(ids) or not self._tokenizer.is_fast:
            return ids
        return [token for token, _ in self._tokens(text)]

    def candidate_ids(self, text: str) -> list[int]:
        """Encode an answer as `candidate_text` gives it."""
        return self.text_ids(candidate_text(text))

    def candidate_spans(self, text: str) -> list[tuple[int, int]]:
        """For each token of `candidate_ids`: from where to where in `candidate_text` it goes.

        Raises:
            ConfigurationError: The tokenizer is a slow one, which does not tell.
        """
        if not self._tokenizer.is_fast:
            raise ConfigurationError(
                f"{type(self._tokenizer).__name__} does not tell where its tokens are in a text: "
                "give the reference LLM a fast tokenizer"
            )
        return [span for _, span in self._tokens(valid_unicode(candidate_text(text)))]

    def _tokens(self, text: str, start: int = 0) -> list[tuple[int, tuple[int, int]]]:
        """Ids of plain text with their places, by a fast tokenizer.

        Added tokens that are not special are recognised in spite of `split_special_tokens`:
        their characters are parted.
        """
        ids, offsets = self._encoded(text, split_special_tokens=True, return_offsets_mapping=True)
        cuts = [
            begin + len(found) - len(found.lstrip()) + 1
            for token, (begin, end) in zip(ids, offsets, strict=True)
            if self._is_control(token, found := text[begin:end]) and len(found.strip()) > 1
        ]
        if cuts:
            parts = pairwise([0, *cuts, len(text)])
            return [token for a, b in parts for token in self._tokens(text[a:b], start + a)]
        return [(i, (start + a, start + b)) for i, (a, b) in zip(ids, offsets, strict=True)]

    def prompt(self, conversation: Conversation, *, limit: int) -> PromptIds:
        """Encode a conversation up to the point where the answer begins.

        A prompt over the limit keeps its system turns, its first and its latest turn; turns
        between them go first, the oldest first, then the middle of the longest turn; both
        are logged as a warning.

        Args:
            conversation: What the model was asked.
            limit: Most tokens to return.

        Raises:
            ReferenceLoadError: The chat template fails on these turns, drops one or rewrites
                its text.
        """
        turns = list(conversation.turns)
        prompt = self._encode(turns)
        whole = len(prompt.ids)
        if whole > limit:
            turns, prompt = self._without_middle(turns, prompt, limit)
        if len(prompt.ids) > limit:
            prompt = self._with_short_texts(turns, limit).latest(limit)
        if len(prompt.ids) < whole:
            _log.warning(
                "a prompt of %d tokens was shortened to %d: kept the system turn, %d of %d turns",
                whole,
                len(prompt.ids),
                len(turns),
                len(conversation.turns),
            )
        return prompt

    def _without_middle(
        self, turns: Sequence[Turn], prompt: PromptIds, limit: int
    ) -> tuple[list[Turn], PromptIds]:
        """Leave out the oldest turns between the first and the latest, as few as will do."""
        middle = [i for i, turn in enumerate(turns) if turn.role != "system"][1:-1]
        costs = [len(self.text_ids(turn.text)) for turn in turns]
        around = max(len(prompt.ids) - sum(costs), 0) / len(turns)

        def encode(gone: int) -> tuple[list[Turn], PromptIds]:
            out = set(middle[:gone])
            kept = [turn for i, turn in enumerate(turns) if i not in out]
            return kept, self._encode(kept)

        gone, best = 0, (list(turns), prompt)
        while len(best[1].ids) > limit and gone < len(middle):
            over: float = len(best[1].ids) - limit
            while over > 0 and gone < len(middle):
                over -= costs[middle[gone]] + around
                gone += 1
            best = encode(gone)
        while gone > 1 and len((more := encode(gone - 1))[1].ids) <= limit:
            gone, best = gone - 1, more
        return best

    def _with_short_texts(self, turns: Sequence[Turn], limit: int) -> PromptIds:
        """Halve the room for each text until the prompt fits; a text loses its middle."""
        pieces, latest = self._pieces(self._rendered(turns))
        prompt, room = _joined(pieces, latest), limit
        while len(prompt.ids) > limit and room > 1:
            room //= 2
            short = [_shortened(p, room) if i % 2 else p for i, p in enumerate(pieces)]
            prompt = _joined(short, latest)
        return prompt

    def _rendered(self, turns: Sequence[Turn]) -> Rendering:
        return self._renderer.render([(turn.role, valid_unicode(turn.text)) for turn in turns])

    def _encode(self, turns: Sequence[Turn]) -> PromptIds:
        rendering = self._rendered(turns)
        prompt = self._encode_whole(rendering) if self._tokenizer.is_fast else None
        return prompt or _joined(*self._pieces(rendering))

    def _encode_whole(self, rendering: Rendering) -> PromptIds | None:
        """Encode all pieces in one call; None where a turn's text holds a control token."""
        text, spans = "".join(rendering.pieces), rendering.spans
        ids, offsets = self._encoded(text, return_offsets_mapping=True)
        starts = [start for start, _ in spans]
        for token, (start, stop) in zip(ids, offsets, strict=True):
            if self._is_control(token, found := text[start:stop]):
                # Some control tokens swallow the blanks around them.
                stop -= len(found) - len(found.rstrip())
                before = bisect_left(starts, stop) - 1
                if before >= 0 and spans[before][1] > start + len(found) - len(found.lstrip()):
                    return None
        begin, end = (0, 0) if rendering.latest is None else spans[rendering.latest]
        inside = [i for i, (start, stop) in enumerate(offsets) if start < end and stop > begin]
        latest = range(inside[0], inside[-1] + 1) if inside else range(len(ids) - 1, len(ids))
        return PromptIds(ids=ids, request=latest)

    def _pieces(self, rendering: Rendering) -> tuple[list[list[int]], int | None]:
        """Ids of each piece, encoded by itself, and the index of the latest turn's."""
        pieces = [
            self.text_ids(piece) if i % 2 else self._encoded(piece)[0]
            for i, piece in enumerate(rendering.pieces)
        ]
        return pieces, None if rendering.latest is None else 2 * rendering.latest + 1

    def _encoded(self, text: str, **options: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and their offsets in characters where they are asked for."""
        if not text:
            return [], []
        encoded = self._tokenizer(text, add_special_tokens=False, verbose=False, **options)
        return list(encoded["input_ids"]), encoded.get("offset_mapping", [])

    def _is_control(self, token: int, found: str) -> bool:
        """True if this token, found in this text, is a control token and no ordinary one.

        Blank space may have tokens of its own, and any odd character may give the unknown token.
        """
        written = self._control.get(token)
        if written is None or not found.strip():
            return False
        return token != self._tokenizer.unk_token_id or written in found


def candidate_text(text: str) -> str:
    """An answer without blank space around it, and with little within it.

    Features are means over tokens: hundreds of line breaks would drown what is said.
    """
    return _BLANKS.sub(r"\1", text.strip())


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


def _control_tokens(tokenizer: Any) -> dict[int, str]:
    """Ids and texts of all added tokens that are not blank space, special or not."""
    added = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return {i: token for i, token in (special | added).items() if token.strip()}


def _joined(pieces: Sequence[list[int]], latest: int | None) -> PromptIds:
    """Join pieces; `latest` is the index of the latest turn's."""
    ids = [i for piece in pieces for i in piece]
    start = sum(map(len, pieces[:latest])) if latest is not None else len(ids)
    stop = start + len(pieces[latest]) if latest is not None else start
    return PromptIds(ids=ids, request=range(start, stop) or range(len(ids) - 1, len(ids)))


def _shortened(ids: list[int], room: int) -> list[int]:
    return ids if len(ids) <= room else ids[: room - room // 2] + ids[len(ids) - room // 2 :]
