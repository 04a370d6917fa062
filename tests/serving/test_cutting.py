"""`cut_below` at the gateway: streams of upstreams and rows of the local model are cut off."""

from __future__ import annotations

import json

import pytest
from langchain_core.messages import AIMessage
from pydantic import ValidationError
from servers import ASK, PATIENCE, Pieces, Upstream, gateway, good_is_safe, until, upstream_server

from srr_guard.errors import ConfigurationError
from srr_guard.scorer import RemoteScorer
from srr_guard.serving.config import GatewayConfig
from srr_guard.testing import FakeScorer

CUT = {"n": 2, "cut_below": 0.2, "max_in_flight": 1, "backoff": 0.0}
POLICIES = {"default": {"sampling": CUT}}
ASKED = {"/chat/completions": {"messages": ASK}, "/responses": {"input": "How do magnets work?"}}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def chunk(finish=None, usage=None, **delta):
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": usage}


def completion(*deltas, **options):
    """A streamed completion, of these deltas or texts."""
    made = [{"content": one} if isinstance(one, str) else one for one in deltas]
    chunks = [chunk(**{"role": "assistant", **one}) for one in made]
    end = [chunk(finish="stop"), {**chunk(), "choices": [], "usage": USAGE}, "[DONE]"]
    return Pieces(*chunks, *([] if options.get("held") else end), **options)


def event(kind, **fields):
    record = {"type": f"response.{kind}", **fields}
    return f"event: response.{kind}\ndata: {json.dumps(record)}\n\n".encode()


def response(*texts, **options):
    """A streamed response, of these texts."""
    head = {"id": "r", "object": "response", "created_at": 1, "model": "m", "output": []}
    part = {"type": "output_text", "text": "".join(texts), "annotations": []}
    said = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    whole = {**head, "status": "completed", "output": [said], "usage": usage}
    events = [event("created", response={**head, "status": "in_progress"})]
    events += [event("output_text.delta", delta=text) for text in texts]
    end = [] if options.get("held") else [event("completed", response=whole)]
    return Pieces(*events, *end, **options)


STREAMS = {"/chat/completions": completion, "/responses": response}
BAD = ["b" * 32] * 6  # the third and the fifth are checked
GOOD = ["a good answer ", "that is long " * 40]


def ask(http, served, door="/chat/completions", **body):
    return http.post(f"{served.url}{door}", json={"model": "m", **ASKED[door], **body})


def text_of(answer):
    if "choices" in answer:
        return answer["choices"][0]["message"]["content"]
    return answer["output"][0]["content"][0]["text"]


@pytest.fixture(scope="module")
def one_server():
    with upstream_server(Upstream()) as server:
        yield server


@pytest.fixture(scope="module")
def one_cutting(one_server):
    with gateway(one_server, policies=POLICIES) as served:
        yield served


@pytest.fixture
def server(one_server):
    one_server.begin_anew()
    return one_server


@pytest.fixture
def cutting(server, one_cutting):
    one_cutting.decisions.clear()
    return one_cutting


# ---- what is cut ----


@pytest.mark.parametrize("door", ASKED)
@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_that_begins_badly_is_closed(http, server, door, stream):
    made = STREAMS[door]
    server.script(made(*BAD, held=True), made(*GOOD))
    with gateway(server, policies=POLICIES) as served:
        answer = ask(http, served, door, stream=stream)
        assert server.cancelled.wait(PATIENCE)
        metrics = http.get(f"{served.root}/metrics").text
        (decision,) = served.decisions
    assert answer.status_code == 200
    assert "a good answer" in answer.text
    assert "bbb" not in answer.text
    assert [candidate.cut for candidate in decision.candidates] == [True, False]
    assert decision.candidates[0].text == "b" * 160
    saved = round((len("".join(GOOD)) - 160) / 4)
    assert (decision.cut, decision.tokens_saved, decision.totals.tokens_saved) == (1, saved, saved)
    if not stream:
        summary = answer.json()["srr_guard"]
        assert (summary["cut"], summary["tokens_saved"]) == (1, saved)
    assert 'srr_guard_candidates_total{outcome="cut"} 1.0' in metrics
    assert 'srr_guard_candidates_total{outcome="returned"} 1.0' in metrics
    assert f"srr_guard_tokens_saved_total {saved}.0" in metrics
    assert 'outcome="cut",upstream=' in metrics
    for request in server.requests:
        assert request["stream"] is True
        usage = {"include_usage": True} if door == "/chat/completions" else None
        assert request.get("stream_options") == usage


@pytest.mark.parametrize("door", ASKED)
@pytest.mark.parametrize("form", [False, True])
def test_where_all_are_cut_a_refusal_takes_their_place(http, server, cutting, door, form):
    server.script(STREAMS[door](*BAD, held=True))
    schema = {"name": "s", "schema": {"type": "object"}}
    wanted = {"response_format": {"type": "json_schema", "json_schema": schema}}
    if door == "/responses":
        wanted = {"text": {"format": {"type": "json_schema", **schema}}}
    answer = ask(http, cutting, door, **(wanted if form else {})).json()
    summary = answer["srr_guard"]
    assert (summary["reason"], summary["cut"], summary["tokens_saved"]) == ("refused", 2, 0)
    assert "bbb" not in json.dumps(answer)
    assert "I'm sorry" in json.dumps(answer)


def test_reasoning_is_followed_too(http, server, cutting):
    thoughts = [{"reasoning_content": text} for text in BAD]
    tagged = ["<think>", *BAD]
    for bad in (thoughts, tagged, [{"reasoning": text} for text in BAD]):
        server.script(completion(*bad, held=True), completion(*GOOD))
        assert ask(http, cutting).json()["srr_guard"]["cut"] == 1


def test_reasoning_may_be_as_it_likes_where_the_answer_alone_counts(http, server):
    thoughts = [{"reasoning_content": text} for text in BAD]
    server.script(completion(*thoughts, "a good answer"))
    policy = {"sampling": CUT, "decision": {"reasoning": "answer"}}
    with gateway(server, policies={"default": policy}) as served:
        assert ask(http, served).json()["srr_guard"]["cut"] == 0


def test_observed_requests_are_not_cut(http, server):
    server.script(completion(*BAD))
    policy = {"sampling": CUT, "decision": {"mode": "observe"}}
    with gateway(server, policies={"default": policy}) as served:
        summary = ask(http, served).json()["srr_guard"]
    assert (summary["reason"], summary["cut"]) == ("observed", 0)


def test_a_scorer_elsewhere_follows_as_well(http, server):
    with gateway() as scoring:
        server.script(completion(*BAD, held=True), completion(*GOOD))
        with gateway(server, scorer=RemoteScorer(scoring.url), policies=POLICIES) as served:
            until(lambda: http.get(f"{served.root}/readyz").status_code == 200)
            assert ask(http, served).json()["srr_guard"]["cut"] == 1


def test_a_check_that_fails_cuts_nothing_and_passes_nothing(http, server):
    server.script(completion(*GOOD))
    scorer = FakeScorer(good_is_safe, error=RuntimeError("a secret"))
    with gateway(server, scorer=scorer, policies=POLICIES) as served:
        answer = ask(http, served)
    assert (answer.status_code, served.decisions[-1].cut) == (503, 0)
    assert "good" not in answer.text


# ---- what is read ----


def called(**fields):
    return {"tool_calls": [fields]}


def piece(arguments, name=None, **fields):
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return called(**fields, function=function)


CALLS = {
    "by index": [
        piece("", "good_a", index=0, id="1", type="function"),
        piece('{"x"', index=0),
        piece(": 1}", index=0),
        piece("{}", "good_b", index=1, id="2", type="function"),
    ],
    "out of order": [
        piece("{}", "good_b", index=1, id="2"),
        piece('{"x": ', "good_a", index=0, id="1"),
        piece("1}", index=0),
    ],
    "without index": [
        piece('{"x": ', "good_a", id="1", type="function"),
        piece("1}"),
        piece("{}", "good_b", id="2", type="function"),
    ],
    "one index for all": [
        piece('{"x": 1}', "good_a", index=0, id="1"),
        piece("{}", "good_b", index=0, id="2"),
    ],
    "id and name in every piece": [
        piece('{"x": ', "good_a", index=0, id="1", type="function"),
        piece("1}", "good_a", index=0, id="1", type="function"),
        piece("{}", "good_b", index=1, id="2", type="function"),
    ],
    "counted late": [
        piece('{"x"', "good_a", index=0, id="1"),
        piece(": 1}", index=0),
        piece("{", "good_b", index=0, id="2"),
        piece("}", index=1),
    ],
    "arguments before the name": [
        piece('{"x": 1}', "good_a", index=0, id="1"),
        piece("{", index=1),
        piece("}", "good_b", index=1, id="2"),
    ],
    "in one chunk": [
        {
            "tool_calls": [
                {"index": 0, "id": "1", "function": {"name": "good_a", "arguments": '{"x": 1}'}},
                {"index": 1, "id": "2", "function": {"name": "good_b", "arguments": "{}"}},
            ]
        }
    ],
}


@pytest.mark.parametrize("deltas", CALLS.values(), ids=CALLS)
def test_calls_are_put_together(http, server, cutting, deltas):
    server.script(completion(*deltas))
    answer = ask(http, cutting)
    assert answer.json()["choices"][0]["message"]["tool_calls"] == [
        {
            "type": "function",
            "id": "1",
            "function": {"name": "good_a", "arguments": '{"x": 1}'},
        },
        {"type": "function", "id": "2", "function": {"name": "good_b", "arguments": "{}"}},
    ]


def test_calls_without_ids_are_told_apart_by_index(http, server, cutting):
    pieces = [piece("", "good_a", index=1), piece("{}", index=1), piece("{", "good_b", index=2)]
    server.script(completion(*pieces, piece("}", index=2)))
    calls = ask(http, cutting).json()["choices"][0]["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "good_a", "arguments": "{}"},
        {"name": "good_b", "arguments": "{}"},
    ]


def test_an_answer_is_put_together(http, server, cutting):
    marks = {"content": [{"token": "x", "logprob": -1.0}]}
    first, second = chunk(content="a good"), chunk(content=" answer", refusal=None)
    for one in (first, second):
        one["choices"][0]["logprobs"] = marks
    other = {"index": 1, "delta": {"content": "bad"}, "finish_reason": "stop"}
    thought = chunk(role="assistant", content="", reasoning_content="good thoughts")
    first["choices"].append(other)
    head = {"service_tier": "flex", "system_fingerprint": "fp"}
    end = {**chunk(finish="length"), **head, "usage": USAGE}
    server.script(Pieces(thought, first, second, {**chunk(), "choices": None}, end, "[DONE]"))
    answer = ask(http, cutting).json()
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "a good answer",
                "reasoning_content": "good thoughts",
                "refusal": None,
            },
            "finish_reason": "length",
            "logprobs": {"content": marks["content"] * 2},
        }
    ]
    assert answer["usage"]["total_tokens"] == 30
    assert (answer["service_tier"], answer["system_fingerprint"]) == ("flex", "fp")


def test_texts_and_parts_are_put_together(http, server, cutting):
    """As reasoning models of Mistral stream: parts first, then plain text."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "good thoughts"}]}
    text = {"type": "text", "text": "a good "}
    deltas = [{"content": ""}, {"content": [thought]}, {"content": [text]}, "answer", " of mine"]
    server.script(completion(*deltas), completion("a good ", {"content": [text]}, "answer"))
    policies = {"default": {"sampling": {**CUT, "n": 1}}}
    with gateway(server, policies=policies) as served:
        contents = [ask(http, served).json()["choices"][0]["message"]["content"] for _ in range(2)]
    assert contents == [
        [thought, {"type": "text", "text": "a good answer of mine"}],
        [{"type": "text", "text": "a good a good answer"}],
    ]


WHOLE = completion("a good \u2028 \x85 answer, K\u00f6ln \U0001f600").pieces
JOINED = b"".join(WHOLE).replace(b"\\u2028", "\u2028".encode()).replace(b"\\u0085", b"\xc2\x85")
JOINED = JOINED.replace(b"\\u00f6", "\u00f6".encode()).replace(
    b"\\ud83d\\ude00", "\U0001f600".encode()
)
FORMS = {
    "in one piece": [JOINED],
    "byte by byte": [JOINED[i : i + 1] for i in range(len(JOINED))],
    "with CRLF": [JOINED.replace(b"\n", b"\r\n")],
    "with CR": [JOINED.replace(b"\n", b"\r")],
    "with comments": [b": OPENROUTER PROCESSING\n\n", JOINED.replace(b"data", b": ping\ndata")],
    "with event and id": [JOINED.replace(b"data", b"id: 7\nevent: message\nretry: 3\ndata")],
    "without a space": [JOINED.replace(b"data: ", b"data:")],
    "in lines of data": [JOINED.replace(b', "', b',\ndata: "')],
    "without DONE": [JOINED.replace(b"data: [DONE]\n\n", b"")],
    "without a last blank line": [JOINED.removesuffix(b"\n")],
    "with what comes after DONE": [JOINED, b"data: {nonsense\n\n"],
    "without a role": [JOINED.replace(b'"role": "assistant", ', b"")],
    "without usage": [JOINED.replace(json.dumps(USAGE).encode(), b"null")],
    "with a byte order mark": [b"\xef\xbb\xbf: hello\n\n", JOINED],
}


@pytest.mark.parametrize("pieces", FORMS.values(), ids=FORMS)
def test_every_form_of_a_stream_is_read(http, server, cutting, pieces):
    server.script(Pieces(*pieces, kind="text/event-stream; charset=utf-8"))
    answer = ask(http, cutting)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert text_of(found) == "a good \u2028 \x85 answer, K\u00f6ln \U0001f600"
    assert found["srr_guard"]["failed"] == 0


def test_a_server_that_does_not_stream_is_read_whole(http, server, cutting):
    server.script({"role": "assistant", "content": "a good answer"})
    for door in ASKED:
        assert text_of(ask(http, cutting, door).json()) == "a good answer"


START = completion("a good answer").pieces[0]
FAULTS = {
    "broken off": Pieces(START),
    "broken off in a character": Pieces(START, b'data: {"choices": "K\xc3'),
    "the connection ends": Pieces(START, broken=True),
    "an error": Pieces(START, {"error": {"message": "a secret", "code": 500}}),
    "an error event": Pieces(START, b'event: error\ndata: {"message": "a secret"}\n\n'),
    "no JSON": Pieces(START, "{nonsense"),
    "no object": Pieces(START, "[1]"),
    "HTML": Pieces(b"<html>good</html>", kind="text/html"),
    "nothing": Pieces(),
    "DONE alone": Pieces("[DONE]"),
    "an endless line": Pieces(START, b"data: " + b"x" * 3000),
    "too many events": completion(*["good"] * 20),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_tried_again_and_then_an_error(http, fault):
    policies = {"default": {"sampling": {**CUT, "n": 1, "attempts": 2}}}
    with (
        upstream_server(Upstream(fault, completion("a good answer"))) as server,
        gateway(server, policies=policies, limits={"answer_bytes": 2500}) as served,
    ):
        assert text_of(ask(http, served).json()) == "a good answer"
        server.script(fault)
        answer = ask(http, served)
    assert (answer.status_code, len(server.requests)) == (502, 4)
    assert "secret" not in answer.text
    assert "good" not in answer.text


@pytest.mark.parametrize(
    ("code", "status", "asked"),
    [(400, 400, 1), (404, 404, 1), (422, 422, 1), (429, 429, 2), (503, 503, 2), (500, 502, 2)],
)
def test_an_error_in_a_stream_counts_as_its_status(http, server, code, status, asked):
    error = {"error": {"message": "too long for sk-secret", "code": code, "param": "messages"}}
    server.script(Pieces(START, error))
    policies = {"default": {"sampling": {**CUT, "n": 1, "attempts": 2}}}
    upstreams = [{"url": server.url, "key": "sk-secret"}]
    with gateway(upstreams=upstreams, policies=policies) as served:
        answer = ask(http, served)
    assert (answer.status_code, len(server.requests)) == (status, asked)
    assert "sk-secret" not in answer.text
    if status in (400, 404, 422):
        assert answer.json()["error"]["message"] == "too long for [key]"


RESPONSE_FAULTS = {
    "broken off": Pieces(*response("a good answer").pieces[:-1]),
    "failed": Pieces(event("failed", response={"status": "failed", "output": []})),
    "error": Pieces(b'event: error\ndata: {"type": "error", "message": "a secret"}\n\n'),
}


@pytest.mark.parametrize("fault", RESPONSE_FAULTS.values(), ids=RESPONSE_FAULTS)
def test_a_faulty_response_is_tried_again(http, server, cutting, fault):
    server.script(fault, response("a good answer"))
    answer = ask(http, cutting, "/responses")
    assert text_of(answer.json()) == "a good answer"


# ---- the local model ----


class Rows(FakeScorer):
    """A scorer that follows rows; its floor is a word."""

    def early_cut(self, below):
        return f"below {below}"


class Local:
    def __init__(self):
        self.options = []

    async def asample_candidates(self, messages, n, **options):
        self.options.append(options)
        cut = AIMessage("b" * 160, response_metadata={"finish_reason": "cut"})
        return [cut, *[AIMessage("a good answer " * 40)] * (n - 1)]


@pytest.mark.parametrize("door", ASKED)
def test_the_local_model_cuts_its_own_rows(http, door):
    model = Local()
    with gateway(scorer=Rows(good_is_safe), model=model, local={}, policies=POLICIES) as served:
        answer = ask(http, served, door).json()
        (decision,) = served.decisions
    assert model.options[0]["cut"] == "below 0.2"
    assert text_of(answer) == "a good answer " * 40
    assert (decision.cut, decision.tokens_saved) == (1, 100)
    assert decision.candidates[0].text == "b" * 160


def test_who_cannot_follow_says_so_at_the_start():
    with (
        pytest.raises(ConfigurationError, match="'default' has cut_below, and its scorer follows"),
        gateway(local={}, model=Local(), policies=POLICIES),
    ):
        pass
    with pytest.raises(ValidationError, match="remote scorers"):
        GatewayConfig(local={}, scorer={"urls": ["http://a/v1"]}, policies=POLICIES)
    with pytest.raises(ValidationError, match="set cut_below alone"):
        GatewayConfig(policies={"default": {"sampling": {"read_ahead": True}}})


def test_a_gateway_that_only_scores_has_nothing_to_cut(http):
    with gateway(policies=POLICIES) as served:
        body = {"conversation": "q", "answer": "a good answer"}
        assert http.post(f"{served.url}/checks", json=body).json()["outcome"] == "pass"


@pytest.mark.model
def test_the_real_scorer_follows_the_real_model(http):
    from srr_guard import SRRScorer

    policies = {"default": {"sampling": {"n": 8, "cut_below": 1.0}}}  # whatever is said
    local = {"max_new_tokens": 64}
    with gateway(scorer=SRRScorer.from_pretrained(), local=local, policies=policies) as served:
        body = {"messages": [{"role": "user", "content": "Tell me a long story of a cat."}]}
        summary = http.post(f"{served.url}/chat/completions", json=body).json()["srr_guard"]
    assert summary["cut"] > 0  # an answer may be over before it is looked at: hardly all eight
