"""What providers' clients stream and give, for tests: split, whole, and through a guard."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessageChunk

from srr_guard import DecisionPolicy, SamplingPolicy, srr_guard
from srr_guard.testing import FakeScorer

# ---- Anthropic ----


def anthropic(*blocks, stop="end_turn", start=None):
    """A stream: each block is what it starts with, and its deltas."""
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": []}
    usage = {"usage": {"input_tokens": 1, "output_tokens": 1}}
    yield {"type": "message_start", "message": {**message, **usage, **(start or {})}}
    yield {"type": "ping"}
    for index, (block, *deltas) in enumerate(blocks):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": stop, "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 3}}
    yield {"type": "message_stop"}


def says(*texts):
    block = {"type": "text", "text": ""}
    return (block, *({"type": "text_delta", "text": text} for text in texts))


def thinks(*texts):
    block = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = ({"type": "thinking_delta", "thinking": text} for text in texts)
    return (block, *deltas, {"type": "signature_delta", "signature": "c2ln"})


def calls(*pieces, kind="tool_use"):
    block = {"type": kind, "id": "t1", "name": "f", "input": {}}
    return (block, *({"type": "input_json_delta", "partial_json": piece} for piece in pieces))


def cites(text):
    place = {"document_index": 0, "start_char_index": 0, "end_char_index": 1}
    citation = {"type": "char_location", "cited_text": text, **place}
    return (*says("so"), {"type": "citations_delta", "citation": citation})


def bedrock(*deltas, start=None, stop="end_turn"):
    yield {"messageStart": {"role": "assistant"}}
    if start is not None:
        yield {"contentBlockStart": {"start": start, "contentBlockIndex": 0}}
    for delta in deltas:
        yield {"contentBlockDelta": {"delta": delta, "contentBlockIndex": 0}}
    yield {"contentBlockStop": {"contentBlockIndex": 0}}
    yield {"messageStop": {"stopReason": stop}}
    yield {"metadata": {"usage": {"inputTokens": 1}, "metrics": {"latencyMs": 1}}}


# ---- Google ----


def gemini(*parts, finish="STOP", **last):
    for part in parts:
        yield {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}]}
    end = {"content": {"parts": [{"text": ""}]}, "finish_reason": finish, "index": 0, **last}
    yield {"candidates": [end], "usage_metadata": {"total_token_count": 3}}


def camel(*parts):
    for part in parts:
        yield {"candidates": [{"content": {"parts": [part]}}], "modelVersion": "gemini"}
    yield {"usageMetadata": {"totalTokenCount": 3}, "modelVersion": "gemini"}


def partial(text, name=None, more=True):
    args = [{"json_path": "$.x", "string_value": text, "will_continue": more}]
    return {"function_call": {"name": name, "partial_args": args, "will_continue": more}}


# ---- OpenAI's responses, Ollama, others ----


def event(kind, **fields):
    return {"type": f"response.{kind}", "sequence_number": 1, "output_index": 0, **fields}


def response(*items):
    common = {"id": "r1", "object": "response", "model": "m", "status": "completed"}
    return {**common, "output": list(items)}


def message(text):
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "i1", "role": "assistant", "content": [part]}


def responses(kind, *deltas, item=None, **place):
    yield event("created", response=response())
    if item is not None:
        yield event("output_item.added", item=item)
    for delta in deltas:
        yield event(f"{kind}.delta", item_id="i1", delta=delta, **place)


def ollama(**message):
    common = {"model": "m", "created_at": "now", "done": False}
    return {**common, "message": {"role": "assistant", "content": "", **message}}


def legacy(text):
    return {"object": "text_completion", "choices": [{"text": text, "index": 0}]}


def data(text):
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"data": {"id": "1", "choices": [delta]}}


def choice(index, text):
    delta = {"index": index, "delta": {"content": text}, "finish_reason": None}
    return {"object": "chat.completion.chunk", "choices": [delta]}


def langchain_event(text):
    return {"event": "on_chat_model_stream", "data": {"chunk": AIMessageChunk(text)}, "name": "m"}


CALL = {"type": "function_call", "id": "i1", "call_id": "c1", "name": "f", "arguments": ""}

SPLIT: dict[str, list[Any]] = {
    "anthropic text": list(anthropic(says("fine HA", "RM"))),
    "anthropic second text": list(anthropic(says("fine"), says("HA", "RM"))),
    "anthropic thinking": list(anthropic(thinks("HA", "RM"), says("fine"))),
    "anthropic call": list(anthropic(calls('{"x": "HA', 'RM"}'))),
    "anthropic server call": list(anthropic(calls('{"x": "HA', 'RM"}', kind="server_tool_use"))),
    "anthropic citation": list(anthropic(cites("HARM"))),
    "anthropic in two blocks": list(anthropic(says("HA"), says("RM"))),
    "anthropic deltas alone": list(anthropic(says("HA", "RM")))[3:5],
    "anthropic call without its start": list(anthropic(calls('{"x": "HA', 'RM"}')))[3:5],
    "anthropic compaction": list(
        anthropic(
            (
                {"type": "compaction", "content": None},
                {"type": "compaction_delta", "content": "HA"},
                {"type": "compaction_delta", "content": "RM"},
            ),
            says("fine"),
        )
    ),
    "anthropic whole block": list(
        anthropic(
            ({"type": "web_search_tool_result", "content": [{"title": "HARM"}]},), says("fine")
        )
    ),
    "anthropic begun": list(anthropic(start={"content": [{"type": "text", "text": "HARM"}]})),
    "anthropic helper's texts": [
        {"type": "text", "text": "HA", "snapshot": "HA"},
        {"type": "text", "text": "RM", "snapshot": "HARM"},
    ],
    "anthropic helper's ends": [
        {"type": "text", "text": "fine", "snapshot": "fine"},
        {
            "type": "content_block_stop",
            "index": 1,
            "content_block": {"type": "tool_use", "name": "f", "input": {"x": "HARM"}},
        },
    ],
    "anthropic helper's message": [
        {"type": "message_stop", "message": {"content": [{"type": "text", "text": "HARM"}]}}
    ],
    "bedrock text": list(bedrock({"text": "HA"}, {"text": "RM"})),
    "bedrock call": list(
        bedrock(
            {"toolUse": {"input": '{"x": "HA'}},
            {"toolUse": {"input": 'RM"}'}},
            start={"toolUse": {"toolUseId": "t1", "name": "f"}},
        )
    ),
    "bedrock reasoning": [
        *bedrock({"reasoningContent": {"text": "HA"}}, {"reasoningContent": {"text": "RM"}}),
        {"contentBlockDelta": {"delta": {"text": "fine"}, "contentBlockIndex": 1}},
    ],
    "gemini text": list(gemini({"text": "HA"}, {"text": "RM"})),
    "gemini camel case": list(camel({"text": "HA"}, {"text": "RM"})),
    "gemini thought": list(
        gemini({"text": "HA", "thought": True}, {"text": "RM", "thought": True}, {"text": "fine"})
    ),
    "gemini call": list(gemini({"function_call": {"name": "f", "args": {"x": "HARM"}}})),
    "gemini camel call": list(camel({"functionCall": {"name": "f", "args": {"x": "HARM"}}})),
    "gemini partial call": list(gemini(partial("HA", "f"), partial("RM", more=False))),
    "gemini code": list(gemini({"executable_code": {"code": "HARM", "language": "PYTHON"}})),
    "gemini result": list(gemini({"code_execution_result": {"output": "HARM"}})),
    "gemini grounding": list(
        gemini({"text": "fine"}, grounding_metadata={"web_search_queries": ["HARM"]})
    ),
    "gemini second candidate": [
        *gemini({"text": "fine"}),
        {"candidates": [{"content": {"parts": [{"text": "HA"}]}, "index": 1}]},
        {"candidates": [{"content": {"parts": [{"text": "fine"}]}, "index": 0}]},
        {"candidates": [{"content": {"parts": [{"text": "RM"}]}, "index": 1}]},
    ],
    "responses text": list(responses("output_text", "HA", "RM", content_index=0)),
    "responses refusal": list(responses("refusal", "HA", "RM", content_index=0)),
    "responses reasoning": [
        *responses("reasoning_summary_text", "HA", "RM", summary_index=0),
        *responses("output_text", "fine", content_index=0),
    ],
    "responses call": list(
        responses("function_call_arguments", '{"x": "HA', 'RM"}', item=CALL),
    ),
    "responses custom call": list(responses("custom_tool_call_input", "HA", "RM")),
    "responses code": list(responses("code_interpreter_call_code", "HA", "RM")),
    "responses unknown": list(responses("poem", "HA", "RM")),
    "responses end alone": [event("completed", response=response(message("HARM")))],
    "responses item alone": [event("output_item.done", item=message("HARM"))],
    "responses part alone": [
        event("content_part.done", part={"type": "output_text", "text": "HARM"})
    ],
    "responses text alone": [event("output_text.done", text="HARM")],
    "responses annotation": [
        *responses("output_text", "fine", content_index=0),
        event("output_text.annotation.added", annotation={"type": "url_citation", "title": "HARM"}),
    ],
    "ollama text": [ollama(content="HA"), ollama(content="RM")],
    "ollama thinking": [ollama(thinking="HA"), ollama(thinking="RM"), ollama(content="fine")],
    "ollama call": [ollama(tool_calls=[{"function": {"name": "f", "arguments": {"x": "HARM"}}}])],
    "ollama generate": [
        {"model": "m", "done": False, "response": "HA"},
        {"model": "m", "done": True, "response": "RM"},
    ],
    "text completions": [legacy("HA"), legacy("RM")],
    "mistral": [data("HA"), data("RM")],
    "choices side by side": [choice(0, "fi"), choice(1, "HA"), choice(0, "ne"), choice(1, "RM")],
    "langchain events": [langchain_event("HA"), langchain_event("RM")],
    "langgraph modes": [
        ("messages", (AIMessageChunk("HA"), {})),
        (("sub",), "messages", (AIMessageChunk("RM"), {})),
    ],
    "langgraph parts": [
        {"type": "messages", "ns": (), "data": (AIMessageChunk(text), {})} for text in ("HA", "RM")
    ],
}


WHOLE = {
    "anthropic": {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "a fine one"}],
        "stop_reason": "end_turn",
        "usage": {"output_tokens": 1},
    },
    "bedrock": {
        "output": {"message": {"role": "assistant", "content": [{"text": "a fine one"}]}},
        "stopReason": "end_turn",
        "usage": {"outputTokens": 1},
    },
    "gemini": {
        "candidates": [{"content": {"parts": [{"text": "a fine one"}]}, "finishReason": "STOP"}]
    },
    "responses": response(message("a fine one")),
    "ollama": {**ollama(content="a fine one"), "done": True},
    "text completion": legacy("a fine one"),
}


def guarded(pieces, **policy):
    @srr_guard(
        scorer=FakeScorer(lambda prompt, text: 0.1 if "HARM" in text else 0.9),
        sampling=SamplingPolicy(n=1, backoff=0),
        decision=DecisionPolicy(below_threshold="raise", **policy),
    )
    def stream(question):
        yield from pieces

    return list(stream("q"))


def replaced(value: Any, words: dict[str, str]) -> Any:
    match value:
        case str():
            for old, new in words.items():
                value = value.replace(old, new)
            return value
        case dict():
            return {key: replaced(inner, words) for key, inner in value.items()}
        case list() | tuple():
            return type(value)(replaced(inner, words) for inner in value)
        case AIMessageChunk():
            return AIMessageChunk(replaced(value.content, words))
    return value
