"""Learn how a chat template arranges turns, from renderings of harmless text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate, product
from typing import Any, Literal

from srr_guard.errors import ReferenceLoadError

Message = tuple[str, str]
"""Role and text."""

Form = Literal["exact", "alternating"]
"""The turns as they are, or joined so that user and assistant alternate."""

Change = Callable[[str], str]

_Shape = tuple[tuple[str, int | str], ...]
"""For each message its role and the number of its text; a blank text stands for itself."""

_SLOT = "\ue000{}\ue001"
_SLOTS = re.compile("\ue000([0-9]+)\ue001")
_CLOCK = "strftime_now"
_SHAPES = 64
# What templates raise, beside their own errors, on turns they were not written for.
_STRANGE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
# Between them they tell every change below from every other.
_PROBES = (
    "\n \t<b>mIxed</b> & 'quoted' {0}\r\n\r\n\n\nnext \t line\n {0} \"eNd\"\\n\t\n",
    " \n{0}wOrd\n\nwOrd{0}\n\t ",
    "lower {0} UPPER "
    + "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 !#$%()*+,-./:;=?@[]^_`|~",
)
_EDGES: tuple[Change, ...] = (
    str,
    str.strip,
    str.lstrip,
    str.rstrip,
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
    lambda text: text.strip(" "),
    lambda text: text.lstrip(" "),
    lambda text: text.rstrip(" "),
)
_BREAKS: tuple[Change, ...] = (
    str,
    lambda text: text.replace("\r\n", "\n"),
    lambda text: text.replace("\r\n", "\n").replace("\n\n", "\n"),
    lambda text: text.replace("\n\n", "\n"),
    lambda text: text.replace("\n", " "),
)


def _both(breaks: Change, edge: Change, text: str) -> str:
    return breaks(edge(text))


_CHANGES = tuple(partial(_both, breaks, edge) for breaks, edge in product(_BREAKS, _EDGES))
"""What a template may do to a text, the usual first."""


@dataclass(frozen=True)
class Rendering:
    """A rendered prompt: control text around and between the texts of turns.

    Attributes:
        controls: Text of the template, with one more piece than there are texts.
        texts: Texts of turns in the order of the template, changed as it changes them.
        latest: Index into `texts` of the latest turn's; None where that turn is blank.
        form: `exact` where the template took the turns as they are.
    """

    controls: tuple[str, ...]
    texts: tuple[str, ...]
    latest: int | None
    form: Form = "exact"

    @property
    def pieces(self) -> list[str]:
        """All pieces in order: control text at even indices, texts of turns at odd ones."""
        pairs = zip(self.controls, (*self.texts, ""), strict=True)
        return [piece for pair in pairs for piece in pair][:-1]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each of `texts` in the joined pieces, in characters."""
        ends = list(accumulate(map(len, self.pieces)))
        return list(zip(ends[::2], ends[1::2], strict=False))


@dataclass(frozen=True)
class _Layout:
    """What a template makes of one shape: control text, and in its gaps changed texts."""

    controls: tuple[str, ...]
    slots: tuple[tuple[int, Change], ...]


@dataclass(frozen=True)
class _Failure:
    """Why a template cannot be used for a shape."""

    reason: str
    cause: Exception | None = None


class Renderer:
    """Renders conversations with a chat template that never sees the texts of turns.

    The template is rendered once around numbered slots for each shape of conversation, and with
    harmless texts to learn what it does to blank space and line breaks. Both renderings must
    agree, and every turn must be printed. So a template may move, repeat or trim texts; one that
    drops or rewrites them is refused.

    Args:
        tokenizer: Its `apply_chat_template` renders.
        template: The chat template.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer = tokenizer
        self._template = template
        kept = lru_cache(maxsize=_SHAPES)(self._learn)
        self._learned = self._learn_anew if _CLOCK in template else kept

    def render(self, turns: Sequence[Message]) -> Rendering:
        """Render a conversation up to the point where the answer begins.

        A template that refuses the turns as they are, or drops one, gets alternating turns.

        Args:
            turns: Roles and texts; tool results count as the user's.

        Raises:
            ReferenceLoadError: The template fails on these turns, drops one or rewrites its text.
        """
        plain = [("user" if role == "tool" else role, text) for role, text in turns]
        failures: list[_Failure] = []
        for form, messages in _forms(plain):
            numbers: dict[str, int] = {}
            shape = tuple(
                (role, numbers.setdefault(text, len(numbers)) if text.strip() else text)
                for role, text in messages
            )
            for parts in (False, True):
                layout = self._learned(shape, parts)
                if isinstance(layout, _Layout):
                    return _filled(layout, list(numbers), shape[-1][1], form)
                failures.append(layout)
        raise _refusal(plain, failures)

    def _learn_anew(self, shape: _Shape, parts: bool) -> _Layout | _Failure:
        """Learn a template that prints the time; again where the clock moved on meanwhile."""
        for _ in range(2):
            if isinstance(layout := self._learn(shape, parts), _Layout):
                return layout
        return self._learn(shape, parts)

    def _learn(self, shape: _Shape, parts: bool) -> _Layout | _Failure:
        from jinja2.exceptions import TemplateError

        try:
            rendered = _SLOTS.split(self._apply(shape, parts, _SLOT))
            controls, numbers = rendered[::2], [int(number) for number in rendered[1::2]]
            lost = Counter(n for _, n in shape if isinstance(n, int)) - Counter(numbers)
            if lost:
                role = next(role for role, number in shape if number in lost)
                return _Failure(f"it drops the text of a turn of the role {role!r}")
            probes = [self._apply(shape, parts, probe) for probe in _PROBES]
        except (TemplateError, *_STRANGE) as error:
            reason = f"it fails with {type(error).__name__}: {error}"
            return _Failure(reason, error.with_traceback(None))
        changes = _changes(controls, numbers, probes)
        if changes is None:
            return _Failure("it rewrites the text of turns, or prints something that depends on it")
        return _Layout(tuple(controls), tuple(zip(numbers, changes, strict=True)))

    def _apply(self, shape: _Shape, parts: bool, pattern: str) -> str:
        """Render a shape, with a pattern that takes its number in place of each text."""
        texts = [t if isinstance(t, str) else pattern.format(t) for _, t in shape]
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
            for (role, _), text in zip(shape, texts, strict=True)
        ]
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
        )


def _forms(messages: list[Message]) -> Iterator[tuple[Form, list[Message]]]:
    yield "exact", messages
    merged = _alternating(messages)
    if merged != messages:
        yield "alternating", merged


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """Fold system turns into the user's and join neighbours of one side."""
    merged: list[tuple[str, list[str]]] = []
    for role, text in messages:
        side = "assistant" if role == "assistant" else "user"
        if not merged or merged[-1][0] != side:
            merged.append((side, []))
        merged[-1][1].append(text)
    joined = [(side, "\n\n".join(texts)) for side, texts in merged]
    return joined if joined[0][0] == "user" else [("user", ""), *joined]


def _changes(controls: list[str], numbers: list[int], probes: list[str]) -> list[Change] | None:
    """Find what the template does to the text in each slot, from renderings of the probes."""
    places = [len(controls[0])] * len(probes)
    if not all(rendered.startswith(controls[0]) for rendered in probes):
        return None
    found: list[Change] = []
    for number, control in zip(numbers, controls[1:], strict=True):
        texts = [probe.format(number) for probe in _PROBES]
        for change in _CHANGES:
            printed = [change(text) + control for text in texts]
            if all(map(str.startswith, probes, printed, places)):
                places = [place + len(text) for place, text in zip(places, printed, strict=True)]
                found.append(change)
                break
        else:
            return None
    return found if places == [len(rendered) for rendered in probes] else None


def _filled(layout: _Layout, texts: list[str], latest: int | str, form: Form) -> Rendering:
    numbers = [number for number, _ in layout.slots]
    last = max((i for i, number in enumerate(numbers) if number == latest), default=None)
    changed = tuple(change(texts[number]) for number, change in layout.slots)
    return Rendering(controls=layout.controls, texts=changed, latest=last, form=form)


def _refusal(messages: Sequence[Message], failures: list[_Failure]) -> ReferenceLoadError:
    roles = [role for role, _ in messages]
    shown = ", ".join(roles if len(roles) <= 8 else [*roles[:4], "...", *roles[-3:]])
    # What it does to texts says more than how it fails on other kinds of content.
    telling = [failure for failure in failures if failure.cause is None] or failures
    reasons = "; ".join(dict.fromkeys(failure.reason for failure in telling))
    error = ReferenceLoadError(
        f"the tokenizer's chat template cannot be used for the turns {shown}: {reasons}. Give the "
        "tokenizer a chat template that prints the text of every turn: set "
        "`tokenizer.chat_template` and save the tokenizer into the model's folder"
    )
    error.__cause__ = telling[0].cause
    return error
