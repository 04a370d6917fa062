"""Samples answers from a causal LM: the rows of several requests in one batch."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

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
from srr_guard.local.requests import Answer, Answers, Call, GenerationRequest
from srr_guard.local.searching import AnswerSearch
from srr_guard.local.text import StopText, TextStream
from srr_guard.local.under_way import BatchPrompts, NewPrompt, UnderWay
from srr_guard.recipes import Plain, Recipe
from srr_guard.reference.host import HostedModel, host
from srr_guard.reference.template import PromptIds, PromptTemplate

_log = logging.getLogger("srr_guard")


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

        prompts = BatchPrompts(self._key)
        requests: list[UnderWay] = []
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

    def _begin(self, call: Call, prompts: BatchPrompts) -> UnderWay:
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
        under_way = UnderWay(call, self.name)
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
    ) -> NewPrompt:
        prompt = self.template.prompt(conversation, limit=room)
        whole = PromptIds(ids=[*prompt.ids, *prefix], request=prompt.request)
        if plan.vectors is None:
            return NewPrompt(whole)
        soft, path = plan.vectors
        at = soft.place(prompt.ids, self.template.text_ids(soft.text), path)
        return NewPrompt(whole, soft.vectors, at)

    def _run(self, requests: Sequence[UnderWay], prompts: Sequence[Prompt]) -> None:
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
