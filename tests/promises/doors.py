"""The doors: every way in which an app can put the guard around a model.

A door that joins this list is held to every promise. It makes something that asks (`Asker`) out
of a script of answers; what it cannot do at all is named in `lacks`, with the reason.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from srr_guard_integrations.langchain import SafetyRankerMiddleware
from srr_guard_integrations.openai_client import guard_openai

from srr_guard import Guard, SafetyRankedChatModel, SafetyRanker, srr_guard
from srr_guard.policy import SamplingPolicy
from srr_guard.testing import FakeScorer, ScriptedChatModel


@dataclass(frozen=True)
class Answer:
    """An answer in no provider's form."""

    text: str = ""
    thinking: str | None = None
    refusal: str | None = None
    image: bool = False
    unknown: bool = False
    call: tuple[str, dict[str, Any]] | None = None
    filtered: bool = False
    beside: Mapping[str, Any] = field(default_factory=dict)

    def message(self) -> AIMessage:
        """As LangChain has it."""
        blocks: list[Any] = []
        if self.thinking is not None:
            blocks.append({"type": "thinking", "thinking": self.thinking, "signature": "x"})
        if self.text and (blocks or self.image or self.unknown):
            blocks.append({"type": "text", "text": self.text})
        if self.image:
            blocks.append({"type": "image", "base64": "xx", "mime_type": "image/png"})
        if self.unknown:
            blocks.append({"type": "hologram", "data": "xx"})
        refusal = {} if self.refusal is None else {"refusal": self.refusal}
        calls = [{"name": self.call[0], "args": self.call[1], "id": "1"}] if self.call else []
        return AIMessage(
            blocks or self.text,
            tool_calls=calls,
            additional_kwargs={**refusal, **self.beside},
            response_metadata={"finish_reason": self._finish_reason()},
            usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        )

    def completion(self) -> dict[str, Any]:
        """As OpenAI's API sends it, and its look-alikes."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None, **self.beside}
        if self.thinking is not None:
            message["reasoning_content"] = self.thinking
        if self.refusal is not None:
            message["refusal"] = self.refusal
        if self.image:
            message["images"] = [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
        if self.unknown:
            message["content"] = [
                *([{"type": "text", "text": self.text}] if self.text else []),
                {"type": "hologram", "data": "xx"},
            ]
        if self.call:
            function = {"name": self.call[0], "arguments": json.dumps(self.call[1])}
            message["tool_calls"] = [{"id": "1", "type": "function", "function": function}]
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": self._finish_reason()}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }

    def response(self) -> dict[str, Any]:
        """As OpenAI's Responses API sends it."""
        output: list[dict[str, Any]] = []
        if self.thinking is not None:
            summary = [{"type": "summary_text", "text": self.thinking}]
            output.append({"type": "reasoning", "id": "rs", "summary": summary})
        content: list[dict[str, Any]] = []
        if self.text:
            content.append({"type": "output_text", "text": self.text, "annotations": []})
        if self.refusal is not None:
            content.append({"type": "refusal", "refusal": self.refusal})
        message = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
        output.append({**message, "content": content, **self.beside})
        if self.image:
            image = {"type": "image_generation_call", "id": "i", "result": "eA=="}
            output.append({**image, "status": "completed"})
        if self.unknown:
            output.append({"type": "hologram", "id": "h", "data": "xx"})
        if self.call:
            call = {"name": self.call[0], "arguments": json.dumps(self.call[1])}
            output.append({"type": "function_call", "id": "fc", "call_id": "1", **call})
        return {
            "id": "r",
            "object": "response",
            "created_at": 1,
            "model": "m",
            "status": "incomplete" if self.filtered else "completed",
            "incomplete_details": {"reason": "content_filter"} if self.filtered else None,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        }

    def _finish_reason(self) -> str:
        return "content_filter" if self.filtered else "tool_calls" if self.call else "stop"


Scripted = Answer | Exception


class Asker:
    """A guarded model behind a door.

    Attributes:
        guard: Its guard.
        ask: From a question, or a list of messages, to the output.
        aask: The same for async callers.
        calls: How often the model was called so far.
    """

    def __init__(
        self,
        guard: Guard,
        ask: Callable[..., Any],
        aask: Callable[..., Any],
        calls: Callable[[], int],
    ) -> None:
        self.guard = guard
        self.ask = ask
        self.aask = aask
        self._calls = calls

    @property
    def calls(self) -> int:
        return self._calls()


@dataclass(frozen=True)
class Door:
    """One way in."""

    name: str
    make: Callable[..., Asker]
    lacks: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *answers: Scripted, **options: Any) -> Asker:
        return self.make(list(answers), options)


def text_of(output: Any) -> str:
    """What a user would see of an output."""
    if isinstance(output, BaseMessage):
        return output.text
    if hasattr(output, "output_text"):
        return output.output_text
    return str(output.choices[0].message.content or "")


def calls_of(output: Any) -> list[tuple[str, dict[str, Any]]]:
    """The tool calls in an output: names and arguments."""
    if isinstance(output, AIMessage):
        return [(call["name"], call["args"]) for call in output.tool_calls]
    if hasattr(output, "output_text"):
        calls = [item for item in output.output if item.type == "function_call"]
    else:
        calls = [call.function for call in output.choices[0].message.tool_calls]
    return [(call.name, json.loads(call.arguments)) for call in calls]


def decision_on(output: Any) -> dict[str, Any]:
    """The decision that an output carries."""
    metadata = getattr(output, "response_metadata", None)
    return metadata["srr_guard"] if metadata else output.srr_guard


def scripted(answers: Sequence[Scripted]) -> ScriptedChatModel:
    return ScriptedChatModel(answers=[a.message() if isinstance(a, Answer) else a for a in answers])


def ranker(answers: list[Scripted], options: dict[str, Any]) -> Asker:
    model = scripted(answers)
    guarded = SafetyRanker(model, **options)
    return Asker(guarded.guard, guarded.invoke, guarded.ainvoke, lambda: model.calls)


def chat_model(answers: list[Scripted], options: dict[str, Any]) -> Asker:
    model = scripted(answers)
    guarded = SafetyRankedChatModel(model, **options)
    return Asker(guarded.guard, guarded.invoke, guarded.ainvoke, lambda: model.calls)


def decorated(answers: list[Scripted], options: dict[str, Any]) -> Asker:
    model = scripted(answers)

    @srr_guard(**options)
    def answer(question: Any) -> AIMessage:
        return model.invoke(question)

    @srr_guard(guard=answer.guard)
    async def aanswer(question: Any) -> AIMessage:
        return await model.ainvoke(question)

    return Asker(answer.guard, answer, aanswer, lambda: model.calls)


def middleware(answers: list[Scripted], options: dict[str, Any]) -> Asker:
    model = scripted(answers)
    inside = SafetyRankerMiddleware(**options)
    agent = create_agent(model=model, tools=[], middleware=[inside])

    def ask(question: Any, config: Any = None) -> Any:
        return agent.invoke({"messages": _messages(question)}, config)["messages"][-1]

    async def aask(question: Any, config: Any = None) -> Any:
        return (await agent.ainvoke({"messages": _messages(question)}, config))["messages"][-1]

    return Asker(inside.guard, ask, aask, lambda: model.calls)


def guard_itself(answers: list[Scripted], options: dict[str, Any]) -> Asker:
    model = scripted(answers)
    guard = options.pop("guard", None) or Guard(**options)

    def ask(question: Any) -> Any:
        return guard.decide(question, lambda _: model.invoke(question)).output

    async def aask(question: Any) -> Any:
        async def call(_: int) -> Any:
            return await model.ainvoke(question)

        return (await guard.adecide(question, call)).output

    return Asker(guard, ask, aask, lambda: model.calls)


def chat_completions(answers: list[Scripted], options: dict[str, Any]) -> Asker:
    """`client.chat.completions.create`."""
    client, aclient, guard, calls = _clients(answers, options, Answer.completion)

    def ask(question: Any, **kwargs: Any) -> Any:
        return client.chat.completions.create(model="m", messages=_dicts(question), **kwargs)

    async def aask(question: Any, **kwargs: Any) -> Any:
        asked = _dicts(question)
        return await aclient.chat.completions.create(model="m", messages=asked, **kwargs)

    return Asker(guard, ask, aask, lambda: len(calls))


def responses(answers: list[Scripted], options: dict[str, Any]) -> Asker:
    """`client.responses.create`."""
    client, aclient, guard, calls = _clients(answers, options, Answer.response)

    def ask(question: Any, **kwargs: Any) -> Any:
        return client.responses.create(model="m", input=_dicts(question), **_flat(kwargs))

    async def aask(question: Any, **kwargs: Any) -> Any:
        asked = _dicts(question)
        return await aclient.responses.create(model="m", input=asked, **_flat(kwargs))

    return Asker(guard, ask, aask, lambda: len(calls))


def _clients(
    answers: list[Scripted], options: dict[str, Any], form: Callable[[Answer], dict[str, Any]]
) -> tuple[Any, Any, Guard, list[Any]]:
    """The real clients, over a transport that gives the answers of the script."""
    count, lock = itertools.count(), threading.Lock()
    calls: list[Any] = []

    def reply(request: httpx.Request) -> httpx.Response:
        with lock:
            answer = answers[next(count) % len(answers)]
            calls.append(json.loads(request.content))
        if isinstance(answer, Exception):
            return httpx.Response(400, json={"error": {"message": "no"}})
        return httpx.Response(200, json=form(answer))

    async def areply(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return reply(request)

    common = {"api_key": "x", "base_url": "http://test/v1", "max_retries": 0}
    transports = httpx.MockTransport(reply), httpx.MockTransport(areply)
    client = openai.OpenAI(http_client=httpx.Client(transport=transports[0]), **common)
    aclient = openai.AsyncOpenAI(http_client=httpx.AsyncClient(transport=transports[1]), **common)
    guard = options.pop("guard", None) or Guard(**options)
    return guard_openai(client, guard=guard), guard_openai(aclient, guard=guard), guard, calls


def _flat(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments for chat completions in the form that responses take."""
    flat = dict(arguments)
    if "response_format" in flat:
        schema = flat.pop("response_format")["json_schema"]
        flat["text"] = {"format": {"type": "json_schema", **schema}}
    if "tools" in flat:
        flat["tools"] = [{"type": "function", **tool["function"]} for tool in flat["tools"]]
    return flat


def _messages(question: Any) -> Any:
    return [("user", question)] if isinstance(question, str) else question


def _dicts(question: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, text in _messages(question)]


_NOT_READ_AHEAD = {"reading ahead": "a function returns its answer whole"}
_FUNCTION = {
    **_NOT_READ_AHEAD,
    "schema": "a function parses its answer itself",
    "model answers": "a function is asked nothing but to be called",
}
_CLIENT = {
    **_NOT_READ_AHEAD,
    "isolated": "a client has no callbacks; what traces it is put inside the guard or around it",
    "callbacks": "a client has none",
    "repeatable": "no interrupt comes over HTTP",
    "model answers": "a client is asked by its type and attributes, see its own tests",
    "agents": "a client is no chat model",
    "structured output": "a client is no chat model",
}
_MIDDLEWARE = {
    "model answers": "it is no model; the agent asks the model itself",
    "structured output": "an agent asks for it by `response_format`",
    "arguments of a call": "an agent's call has none",
}

DOORS = [
    Door("SafetyRanker", ranker),
    Door("SafetyRankedChatModel", chat_model),
    Door("@srr_guard", decorated, lacks=_FUNCTION),
    Door("SafetyRankerMiddleware", middleware, lacks=_MIDDLEWARE),
    Door("guard_chat_completions", chat_completions, lacks=_CLIENT),
    Door("responses", responses, lacks=_CLIENT),
    Door("Guard", guard_itself, lacks=_FUNCTION),
]
SCORER = FakeScorer(lambda prompt, answer: 0.1 if "HARM" in answer else 0.9)


def quick(n: int = 2, **sampling: Any) -> SamplingPolicy:
    """A sampling policy without waits."""
    return SamplingPolicy(n=n, backoff=0.0, **sampling)
