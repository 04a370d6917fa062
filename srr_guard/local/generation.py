"""Samples answers from a causal LM: the rows of several requests in one batch."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.local.decoding.choice import decoders
from srr_guard.local.decoding.cutting import PrefixWatch
from srr_guard.local.decoding.rows import Layout, Row, decode
from srr_guard.local.decoding.sampling import Draw
from srr_guard.local.decoding.tracks import Batch, Decoder, Prompt, Track
from srr_guard.local.decoding.transformers import generate
from srr_guard.local.recipes.key_sentence import key_sentence
from srr_guard.local.recipes.plan import RowPlan, RowPlanner
from srr_guard.local.searching import AnswerSearch
from srr_guard.local.text import StopText, TextStream
from srr_guard.recipes import Plain, Recipe
from srr_guard.reference.cache.states import StateRecorder
from srr_guard.reference.host import HostedModel, host
from srr_guard.reference.template import PromptIds, PromptTemplate

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.scorer.running import EarlyCut

_log = logging.getLogger("srr_guard")


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
    """One sampled answer; `tokens` counts what was generated, the end token included.

    Attributes:
        text: Its text, without a stop text.
        tokens: How many tokens were generated.
        finish: Why it ended.
        ids: The tokens.
    """

    text: str
    tokens: int
    finish: Literal["stop", "length", "cut"]
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answers:
    """The answers of one call to one model, for one prompt of `prompt_tokens` tokens."""

    model_name: str
    prompt_tokens: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A request for answers.

    Attributes:
        conversation: What the model is asked.
        options: How answers are sampled.
        n: How many.
        prefix: Text that every answer is made to begin with; rows are then plain ones.
        recipes: How the answers are made, taken in turn; empty: as the model gives them.
        cut: A floor for answers under way; None: none is cut off.
    """

    conversation: Conversation
    options: GenerationOptions
    n: int = 1
    prefix: str = ""
    recipes: tuple[Recipe | None, ...] = ()
    cut: EarlyCut | None = None


@dataclass(frozen=True, eq=False)
class Call:
    """A request on its way, and who hears of it.

    Attributes:
        request: What to sample.
        cancelled: Asked after each token; True gives its answers up.
        on_answers: Receives the answers.
        on_error: Receives the error in their place.
        on_text: Receives every answer piece by piece: its index and the piece.
    """

    request: GenerationRequest
    cancelled: Callable[[], bool]
    on_answers: Callable[[Answers], None]
    on_error: Callable[[BaseException], None]
    on_text: Callable[[int, str], None] | None = None


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
        text = hosted.module.config.get_text_config()
        self._context = int(getattr(text, "max_position_embeddings", None) or 2048)
        self._ends = _end_tokens(hosted.module, hosted.tokenizer)
        self._decoders: list[Decoder] = decoders(hosted.module, name=self.name)
        self._planner = RowPlanner(
            name=self.name,
            reference=hosted.source.digest,
            template=self.template,
            width=int(text.hidden_size),
        )

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._ends

    def sample(
        self,
        request: GenerationRequest,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_text: Callable[[int, str], None] | None = None,
    ) -> Answers:
        """Sample the answers of one request (see `sample_all`).

        Raises:
            ConfigurationError: The answer's length leaves no room for the prompt.
        """
        found: list[Answers] = []
        failed: list[BaseException] = []
        self.sample_all([Call(request, cancelled, found.append, failed.append, on_text)])
        if failed:
            raise failed[0]
        return found[0]

    def sample_all(self, calls: Sequence[Call]) -> None:
        """Sample the answers of several requests in one batch, none seeing another.

        Equal prompts are read once. A row depends on its request and its seed only. After each
        token scoring passes get a turn, and a request whose answers are done is answered.
        """
        import torch

        prompts = _Prompts(self._key)
        requests: list[_UnderWay] = []
        for call in calls:
            try:
                requests.append(self._begin(call, prompts))
            except Exception as error:  # noqa: BLE001 (handed to the caller)
                call.on_error(error)
        try:
            with torch.inference_mode():
                self._run(requests, prompts.found)
        except _GivenUpError:
            pass
        except BaseException as error:  # noqa: BLE001 (handed to the callers)
            for request in requests:
                request.fail(error)
            return
        for request in requests:
            request.close()

    def _begin(self, call: Call, prompts: _Prompts) -> _UnderWay:
        request = call.request
        options = request.options
        prefix = self.template.text_ids(request.prefix) if request.prefix else []
        room = self._context - options.max_new_tokens - len(prefix)
        if room < 1:
            raise ConfigurationError(
                f"max_new_tokens={options.max_new_tokens!r} leaves no room for the prompt in the "
                f"{self._context} tokens of {self.name!r}: lower it"
            )
        self._check_cut(request)
        under_way = _UnderWay(call, self.name)
        stopped = StopText(self._decode, options.stop)
        seed = secrets.randbits(63) if options.seed is None else options.seed
        for i in range(request.n):
            recipe = request.recipes[i % len(request.recipes)] if request.recipes else None
            if prefix and not isinstance(recipe, Plain):
                recipe = None  # the answer's beginning is asked for: nothing else may change it
            plan = self._planner.plan(
                recipe,
                request.conversation,
                temperature=options.temperature,
                seed=_row_seed(seed, i),
            )
            self._check_served(recipe, plan)
            if plan.search is not None:
                under_way.search(*self._searched(call, plan, room, stopped, i))
                continue
            recorded = plan.recorded and not prefix and bool(self._decoders)
            indices = [
                prompts.add(self._prompt(talk, plan, prefix, room), recorded=recorded)
                for talk in plan.conversations
            ]
            under_way.prompt_tokens = under_way.prompt_tokens or len(prompts.found[indices[0]].ids)
            stream = None
            if call.on_text is not None:
                stream = TextStream(self._decode, options.stop, partial(call.on_text, i))
            row = Row(
                [Track(index, plan.strength, plan.steering) for index in indices],
                Draw(plan.temperature, options.top_p, random.Random(plan.seed)),
                limit=options.max_new_tokens,
                ends=self._ends,
                stopped=stopped,
                cancelled=call.cancelled,
                processor=plan.processor,
                recorder=prompts.found[indices[0]].recorder if recorded else None,
                on_ids=stream.push if stream else None,
                low=PrefixWatch(request.cut) if recorded and request.cut else None,
            )
            under_way.add(row, partial(self._answer, request, stopped, stream))
        return under_way

    def _searched(
        self, call: Call, plan: RowPlan, room: int, stopped: StopText, index: int
    ) -> tuple[Row, Callable[[Row], Answer], Callable[[], None]]:
        """A row that is searched for: itself, how its answer is made, and the search.

        Raises:
            ConfigurationError: Nobody scores its beginnings.
        """
        request, (talk,) = call.request, plan.conversations
        options = request.options
        assert plan.search is not None
        prompt = self._prompt(talk, plan, (), room).prompt
        stream = None
        if call.on_text is not None:
            stream = TextStream(self._decode, options.stop, partial(call.on_text, index))

        def row_of(seed: int | str) -> Row:
            return Row(
                (),
                Draw(plan.temperature, options.top_p, random.Random(seed)),
                limit=options.max_new_tokens,
                ends=self._ends,
                stopped=stopped,
                cancelled=call.cancelled,
            )

        search = AnswerSearch(
            plan.search,
            prompt=prompt,
            scores=request.cut,
            key=self._key,
            decoders=self._decoders,
            seed=plan.seed,
            row_of=row_of,
            seed_of=_row_seed,
            opening=partial(self._opening, prompt, talk.turns[-1].text),
        )
        row = row_of(plan.seed)
        answer = partial(self._answer, request, stopped, stream)
        return row, answer, partial(search.fill, row)

    def _opening(self, prompt: PromptIds, asked: str, ids: Sequence[int]) -> int | None:
        """How many tokens stand before the key sentence of an answer; None: not known yet."""
        before = str(self._tokenizer.decode(prompt.ids[-8:])).lower()
        tag = "<think>" if "<think>" in before else ""
        found = key_sentence(tag + self._decode(ids), asked)
        if found is None:
            return None
        start = found[0] - len(tag)
        return max(k for k in range(len(ids)) if len(self._decode(ids[:k])) <= start)

    def _check_cut(self, request: GenerationRequest) -> None:
        """Refuse a floor that this model's states say nothing about.

        Raises:
            ConfigurationError: The scorer reads another model.
        """
        if request.cut is not None and request.cut.model != self._key:
            raise ConfigurationError(
                f"cut_below={request.cut.below}: the scorer reads another model than {self.name!r} "
                "(or another device or precision), so it cannot follow the answers: set "
                "read_ahead=True, or leave it out"
            )

    def _check_served(self, recipe: Recipe | None, plan: RowPlan) -> None:
        """Refuse what `generate` cannot do.

        Raises:
            ConfigurationError: It would have to.
        """
        special = len(plan.conversations) > 1 or plan.steering is not None or plan.vectors
        if (special or plan.search) and not self._decoders:
            raise ConfigurationError(
                f"{type(recipe).__name__}: {self.name!r} is decoded by transformers' `generate`, "
                "which cannot serve it; take another model or another recipe"
            )

    def _prompt(
        self, conversation: Conversation, plan: RowPlan, prefix: Sequence[int], room: int
    ) -> _NewPrompt:
        prompt = self.template.prompt(conversation, limit=room)
        whole = PromptIds(ids=[*prompt.ids, *prefix], request=prompt.request)
        if plan.vectors is None:
            return _NewPrompt(whole)
        soft, path = plan.vectors
        at = soft.place(prompt.ids, self.template.text_ids(soft.text), path)
        return _NewPrompt(whole, soft.vectors, at)

    def _run(self, requests: Sequence[_UnderWay], prompts: Sequence[Prompt]) -> None:
        owner = {row: request for request in requests for row in request.rows}
        searches = {row: work for request in requests for row, work in request.searches.items()}

        def after_step() -> None:
            host.give_way()

        def pause() -> None:
            host.give_way()
            if all(row.given_up for row in owner):
                raise _GivenUpError

        def on_done(row: Row) -> None:
            owner[row].finish(row)

        rows = [row for row in owner if row not in searches]
        if rows:
            self._decode_rows(rows, prompts, pause=pause, after_step=after_step, on_done=on_done)
        for row, search in searches.items():
            if not row.given_up:
                search()
                on_done(row)

    def _decode_rows(
        self,
        owner: Sequence[Row],
        prompts: Sequence[Prompt],
        *,
        pause: Callable[[], None],
        after_step: Callable[[], None],
        on_done: Callable[[Row], None],
    ) -> None:
        """Grow the rows of a batch by the first decoder that takes it."""
        layout = Layout(owner)
        batch = Batch(
            prompts=prompts,
            tracks=layout.tracks,
            room=max(row.limit for row in owner),
            pause=pause,
        )
        for decoder in self._decoders:
            if decoder.reach is not None and batch.reach > decoder.reach:
                _log.debug("%s: not by %s: too many tokens", self.name, decoder.name)
                continue
            _log.debug("%s: %s decoding of %d rows", self.name, decoder.name, len(owner))
            first = [batch.prompts[track.prompt].ids[-1] for track in batch.tracks]
            decode(decoder.begin(batch), layout, first, after_step=after_step, on_done=on_done)
            return
        _log.debug("%s: %d rows by generate", self.name, len(owner))
        for index, prompt in enumerate(prompts):
            rows = [row for row in owner if row.tracks[0].prompt == index]
            generate(self._model, prompt.ids, rows, after_step=after_step, on_done=on_done)

    def _answer(
        self, request: GenerationRequest, stopped: StopText, stream: TextStream | None, row: Row
    ) -> Answer:
        """The answer of a row that is done; its states go to the scorers."""
        text = self._decode(row.ids)
        cut = stopped.cut(text)
        if stream is not None:
            stream.close(text[:cut])
        if row.recorder is not None and row.done:
            row.recorder.keep(row)  # a scorer that reads other tokens in the text reads it again
        ended = cut is not None or row.ended
        finish: Literal["stop", "length", "cut"] = "stop" if ended else "length"
        if row.cut:
            finish = "cut"
        spent = row.spent or len(row.ids)
        return Answer(request.prefix + text[:cut], spent, finish, tuple(row.ids))

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


class _GivenUpError(Exception):
    """Ends a batch that nobody waits for."""


@dataclass(frozen=True, eq=False)
class _NewPrompt:
    """A prompt, and the vectors that stand in place of its tokens from `at` on."""

    prompt: PromptIds
    vectors: Tensor | None = None
    at: int = 0


class _Prompts:
    """The prompts of a batch, equal ones once."""

    def __init__(self, key: Any) -> None:
        self.found: list[Prompt] = []
        self._key = key
        self._known: dict[tuple[tuple[int, ...], int | None], int] = {}

    def add(self, new: _NewPrompt, *, recorded: bool) -> int:
        """Index of a prompt; the recorder comes with the first row that is recorded."""
        ids = new.prompt.ids
        key = tuple(ids), None if new.vectors is None else id(new.vectors)
        if key not in self._known:
            self._known[key] = len(self.found)
            self.found.append(Prompt(ids, new.vectors, new.at))
        index = self._known[key]
        if recorded and self.found[index].recorder is None:
            recorder = StateRecorder(host.states, self._key, new.prompt)
            if recorder.records:
                self.found[index] = replace(self.found[index], recorder=recorder)
        return index


@dataclass(eq=False)
class _UnderWay:
    """A request while its rows grow."""

    call: Call
    name: str
    prompt_tokens: int = 0
    rows: dict[Row, Callable[[Row], Answer]] = field(default_factory=dict)
    searches: dict[Row, Callable[[], None]] = field(default_factory=dict)
    answers: dict[Row, Answer] = field(default_factory=dict)
    settled: bool = False

    def add(self, row: Row, answer: Callable[[Row], Answer]) -> None:
        """Add a row, and how its answer is made."""
        self.rows[row] = answer

    def search(self, row: Row, answer: Callable[[Row], Answer], work: Callable[[], None]) -> None:
        """Add a row that is searched for."""
        self.add(row, answer)
        self.searches[row] = work

    def finish(self, row: Row) -> None:
        """Take note of a row that is done."""
        self.answers[row] = self.rows[row](row)
        if len(self.answers) == len(self.rows):
            self.close()

    def close(self) -> None:
        """Hand over what there is."""
        if not self.settled:
            self.settled = True
            answers = (self.answers.get(row) or make(row) for row, make in self.rows.items())
            self.call.on_answers(Answers(self.name, self.prompt_tokens, tuple(answers)))

    def fail(self, error: BaseException) -> None:
        """Hand over an error."""
        if not self.settled:
            self.settled = True
            self.call.on_error(error)


def _row_seed(seed: int | str, row: int) -> int | str:
    """Seed of a row; the first row's is the call's own, as if it were alone."""
    return seed if row == 0 else f"{seed}, row {row}"


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
