"""Real clients: `openai` sync and async, `langchain-openai`, `curl`."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess

import openai
import pydantic
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from servers import ASK, calls, says


class Weather(pydantic.BaseModel):
    """A weather report."""

    good: bool
    city: str


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
        yield client


def test_openai(client, upstream):
    two = {"srr_guard": {"n": 2}}
    made = client.chat.completions.create(model="m", messages=ASK, extra_body=two)
    assert made.choices[0].message.content == "a good answer"
    assert made.srr_guard["sampled"] == 2
    assert made.usage.total_tokens == 30
    raw = client.chat.completions.with_raw_response.create(model="m", messages=ASK)
    assert json.loads(raw.headers["x-srr-guard-decision"])["reason"] == "best_of_n"
    assert raw.parse().choices[0].message.content == "a good answer"
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").id == "m"


def test_openai_streams(client, upstream):
    options = {"include_usage": True}
    with client.chat.completions.create(
        model="m", messages=ASK, stream=True, stream_options=options
    ) as stream:
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert (text, chunks[-1].usage.total_tokens) == ("a good answer", 60)
    with client.chat.completions.stream(model="m", messages=ASK) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.done" in kinds
    assert final.choices[0].message.content == "a good answer"


def test_openai_tools_and_structured_output(client, upstream):
    upstream.script(calls("good_weather", '{"city": "Paris"}'))
    function = {"name": "good_weather", "parameters": {"type": "object", "properties": {}}}
    made = client.chat.completions.create(
        model="m", messages=ASK, tools=[{"type": "function", "function": function}]
    )
    (call,) = made.choices[0].message.tool_calls
    assert (call.function.name, made.choices[0].finish_reason) == ("good_weather", "tool_calls")
    upstream.script(says("good, but no JSON"), says('{"good": true, "city": "Paris"}'))
    parsed = client.chat.completions.parse(model="m", messages=ASK, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(good=True, city="Paris")
    upstream.script(says('{"good": true, "city": "Paris"}'))
    answer = client.responses.parse(model="m", input="q", text_format=Weather)
    assert answer.output_parsed == Weather(good=True, city="Paris")


def test_openai_responses(client, upstream):
    made = client.responses.create(model="m", input="How do magnets work?")
    assert (made.output_text, made.srr_guard["reason"]) == ("a good answer", "best_of_n")
    with client.responses.stream(model="m", input="How do magnets work?") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert (final.output_text, final.usage.total_tokens) == ("a good answer", 60)
    upstream.script(says("a bad answer"))
    assert client.responses.create(model="m", input="q").output_text.startswith("I'm sorry")


def test_openai_errors(client, upstream):
    with pytest.raises(openai.BadRequestError, match="n=3 asks for several"):
        client.chat.completions.create(model="m", messages=ASK, n=3)
    many = {"srr_guard": {"n": 99}}
    with pytest.raises(openai.BadRequestError, match=r"srr_guard\.n=99 is above 4"):
        client.chat.completions.create(model="m", messages=ASK, extra_body=many)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="m", input="x")
    with pytest.raises(openai.UnprocessableEntityError):
        client.post("/score", body={}, cast_to=object)


@pytest.fixture
def async_client(served):
    """Made outside the event loop: it reads certificates."""
    return openai.AsyncOpenAI(base_url=served.url, api_key="none", max_retries=0)


async def test_openai_async(async_client, upstream):
    async with async_client as client:

        async def one() -> str:
            made = await client.chat.completions.create(model="m", messages=ASK)
            return made.choices[0].message.content

        async def streamed() -> str:
            stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in stream])

        async def responses() -> str:
            async with client.responses.stream(model="m", input="q") as stream:
                return (await stream.get_final_response()).output_text

        found = await asyncio.gather(one(), streamed(), responses(), one(), streamed())
        assert set(found) == {"a good answer"}


@pytest.fixture
def model(served):
    return ChatOpenAI(base_url=served.url, api_key="none", model="m", max_retries=0)


def test_langchain(model, served, upstream):
    answer = model.invoke("How do magnets work?")
    assert answer.text == "a good answer"
    assert answer.usage_metadata["total_tokens"] == 60
    assert "".join(chunk.text for chunk in model.stream("q")) == "a good answer"
    assert [answer.text for answer in model.batch(["a", "b"])] == ["a good answer"] * 2

    @tool
    def good_weather(city: str) -> str:
        """Tell the weather."""
        return city

    upstream.script(calls("good_weather", '{"city": "Paris"}'))
    (call,) = model.bind_tools([good_weather]).invoke("q").tool_calls
    assert (call["name"], call["args"]) == ("good_weather", {"city": "Paris"})
    upstream.script(says('{"good": true, "city": "Paris"}'))
    assert model.with_structured_output(Weather).invoke("q") == Weather(good=True, city="Paris")
    upstream.begin_anew()
    responses = ChatOpenAI(
        base_url=served.url, api_key="none", model="m", max_retries=0, use_responses_api=True
    )
    assert responses.invoke("q").text == "a good answer"
    upstream.begin_anew()
    model.bind(extra_body={"srr_guard": {"n": 1}}).invoke("q")
    assert len(upstream.requests) == 1


async def test_langchain_async(model, upstream):
    assert (await model.ainvoke("q")).text == "a good answer"
    assert "".join([chunk.text async for chunk in model.astream("q")]) == "a good answer"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(served, upstream):
    body = json.dumps({"model": "m", "messages": ASK, "stream": True})
    command = ["curl", "-sS", "-N", "--noproxy", "*", f"{served.url}/chat/completions"]
    options = ["-H", "content-type: application/json", "-d", body]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("data: [DONE]\n\n")
    assert "a good answer" in done.stdout
