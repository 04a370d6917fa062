"""Samples answers from a causal LM: one batched call, stop texts, streamed text."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.reference.cache.states import StateRecorder
from srr_guard.reference.host import HostedModel, host
from srr_guard.reference.template import PromptTemplate
from srr_guard.reference.weights import decoder_blocks


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Settings for sampling answers.

    Attributes:
        max_new_tokens: Most tokens of one answer.
        temperature: 0 takes the likeliest token each time.
        top_p: Share of the probability that sampling is limited to, in (0, 1].
        seed: Equal seeds give equal answers; None gives new ones each time.
        stop: Texts that end an answer; they are not part of it.

    Raises:
        ConfigurationError: A value is out of range.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigurationError(
                f"max_new_tokens={self.max_new_tokens!r} leaves no answer: give 1 or more"
            )
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigurationError(
                f"temperature={self.temperature!r} is out of range: give 0 (greedy) or more"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigurationError(f"top_p={self.top_p!r} is outside (0, 1]: 1 switches it off")
        if not all(self.stop):
            raise ConfigurationError(f"stop={self.stop!r} holds an empty text: leave it out")


@dataclass(frozen=True)
class Answer:
    """One sampled answer; `tokens` counts what was generated, the end token included."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class Answers:
    """The answers of one call to one model, for one prompt of `prompt_tokens` tokens."""

    model_name: str
    prompt_tokens: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A request for answers; `prefix` is text that every answer is made to begin with."""

    conversation: Conversation
    options: GenerationOptions
    n: int = 1
    prefix: str = ""


class TextGenerator:
    """Samples from a hosted model, on the host's thread only.

    Args:
        hosted: The model and its tokenizer.
    """

    def __init__(self, hosted: HostedModel) -> None:
        self.name = hosted.source.name
        self.template = PromptTemplate(hosted.tokenizer)
        self._key = hosted.key
        self._model = hosted.module
        self._tokenizer = hosted.tokenizer
        self._layers = decoder_blocks(hosted.module)
        text = hosted.module.config.get_text_config()
        self._context = int(getattr(text, "max_position_embeddings", None) or 2048)
        self._ends = _end_tokens(hosted.module, hosted.tokenizer)

    def sample(
        self,
        request: GenerationRequest,
        *,
        cancelled: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Answers:
        """Sample n answers in one batched call. After each token, scoring passes get a turn.

        Args:
            request: What to sample.
            cancelled: Asked after each token; True ends all answers.
            on_text: Receives the first answer piece by piece.

        Raises:
            ConfigurationError: The answer's length leaves no room for the prompt.
        """
        import torch

        options = request.options
        prefix = self.template.text_ids(request.prefix) if request.prefix else []
        room = self._context - options.max_new_tokens - len(prefix)
        if room < 1:
            raise ConfigurationError(
                f"max_new_tokens={options.max_new_tokens!r} leaves no room for the prompt in the "
                f"{self._context} tokens of {self.name!r}: lower it"
            )
        prompt = self.template.prompt(request.conversation, limit=room)
        ids = prompt.ids + prefix
        recorder = StateRecorder(host.states, self._key, self._layers, replace(prompt, ids=ids))
        stream = _TextStream(self._decode, options.stop, on_text) if on_text else None
        watch = _Watch(
            request.n,
            ends=self._ends,
            stopped=_StopText(self._decode, options.stop),
            cancelled=cancelled,
            on_ids=stream.push if stream else None,
            on_step=partial(_after_token, recorder),
        )
        seed = secrets.randbits(63) if options.seed is None else options.seed
        device = self._model.device
        own = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=own), torch.inference_mode(), recorder.at_work():
            torch.manual_seed(seed)
            row = torch.tensor([ids], device=device)
            generated = self._model.generate(
                row,
                attention_mask=torch.ones_like(row),
                return_dict_in_generate=True,
                max_new_tokens=options.max_new_tokens,
                num_return_sequences=request.n,
                eos_token_id=sorted(self._ends) or None,
                pad_token_id=min(self._ends, default=0),
                stopping_criteria=[watch],
                **_sampling_arguments(options),
            )
            if recorder.records and not all(watch.done) and not cancelled():
                # the last token of an answer that ends by its length was never read
                last = torch.tensor([[r[-1]] for r in watch.rows], device=device)
                self._model(last, past_key_values=generated.past_key_values)
            recorder.keep()
        answers = tuple(self._answer(request.prefix, row, options.stop) for row in watch.rows)
        if stream is not None:
            stream.close(answers[0].text[len(request.prefix) :])
        return Answers(self.name, len(ids), answers)

    def _answer(self, prefix: str, row: list[int], stop: Sequence[str]) -> Answer:
        text = self._decode(row)
        cut = min((at for s in stop if (at := text.find(s)) >= 0), default=None)
        ended = cut is not None or (bool(row) and row[-1] in self._ends)
        return Answer(prefix + text[:cut], len(row), "stop" if ended else "length")

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def _after_token(recorder: StateRecorder, rows: Sequence[list[int]], done: Sequence[bool]) -> None:
    recorder.next_tokens(rows, done)
    with recorder.paused():
        host.give_way()


class _Watch:
    """Called by `generate` after each token: collects the rows and says which have ended."""

    def __init__(
        self,
        n: int,
        *,
        ends: frozenset[int],
        stopped: _StopText,
        cancelled: Callable[[], bool],
        on_ids: Callable[[list[int]], None] | None,
        on_step: Callable[[list[list[int]], list[bool]], None],
    ) -> None:
        self.rows: list[list[int]] = [[] for _ in range(n)]
        self.done = [False] * n
        self._on_step = on_step
        self._ends = ends
        self._stopped = stopped
        self._cancelled = cancelled
        self._on_ids = on_ids

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        for i, token in enumerate(input_ids[:, -1].tolist()):
            if not self.done[i]:
                self.rows[i].append(token)
                self.done[i] = token in self._ends or self._stopped(self.rows[i])
                if i == 0 and self._on_ids is not None:
                    self._on_ids(self.rows[0])
        self._on_step(self.rows, self.done)
        done = [True] * len(self.done) if self._cancelled() else self.done
        return input_ids.new_tensor(done).bool()


class _StopText:
    """Tells when one of the stop texts has just been completed."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = stop
        # a token has at least one byte; some room for those that decode to nothing
        self._tail = max((len(s.encode()) for s in stop), default=0) + 8

    def __call__(self, ids: list[int]) -> bool:
        if not self._stop:
            return False
        tail = self._decode(ids[-self._tail :])
        return any(s in tail for s in self._stop)


class _TextStream:
    """Cuts a growing answer into pieces that never have to be taken back.

    The bytes of an unfinished character stay buffered, and an end that may become a stop text.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str],
        send: Callable[[str], None],
    ) -> None:
        self._decode = decode
        self._stop = stop
        self._send = send
        self._sent = 0

    def push(self, ids: list[int]) -> None:
        text = self._decode(ids).rstrip("\ufffd")
        buffered = max((_overlap(text, s) for s in self._stop), default=0)
        self._send_up_to(text, len(text) - buffered)

    def close(self, text: str) -> None:
        self._send_up_to(text, len(text))

    def _send_up_to(self, text: str, end: int) -> None:
        if end > self._sent:
            self._send(text[self._sent : end])
            self._sent = end


def _overlap(text: str, stop: str) -> int:
    """Length from the first place where `stop` begins, or may have begun, to the end."""
    at = text.find(stop)
    if at >= 0:
        return len(text) - at
    longest = min(len(stop) - 1, len(text))
    return next((k for k in range(longest, 0, -1) if text.endswith(stop[:k])), 0)


def _sampling_arguments(options: GenerationOptions) -> dict[str, Any]:
    if options.temperature == 0.0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {
        "do_sample": True,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": 0,
    }


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, from all the places where models name them."""
    ends: set[int] = set()
    for named in (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        ends.update([named] if isinstance(named, int) else named or ())
    return frozenset(ends)
