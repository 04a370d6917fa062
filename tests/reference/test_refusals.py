"""Templates that cannot be reproduced are refused, with the reason and the mend."""

from __future__ import annotations

import pytest
from jinja2.exceptions import TemplateError, UndefinedError
from tiny import tiny_tokenizer

from srr_guard.conversation import Conversation
from srr_guard.errors import ReferenceLoadError
from srr_guard.reference.template import PromptTemplate

TURNS = [("system", "SYSTEM"), ("user", "FIRST"), ("assistant", "ANSWER"), ("user", "SECRET")]


def each(body: str) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}"


def refusal(chat_template: str) -> ReferenceLoadError:
    template = PromptTemplate(tiny_tokenizer(chat_template=chat_template))
    with pytest.raises(ReferenceLoadError) as error:
        template.prompt(Conversation.of(TURNS), limit=1000)
    assert "system, user, assistant, user" in str(error.value)
    assert "set `tokenizer.chat_template`" in str(error.value)
    assert "SECRET" not in str(error.value)
    return error.value


def test_a_dropped_turn_is_named():
    error = refusal(each("{{ m['content'] if m['role'] != 'assistant' }}"))
    assert "drops the text of a turn of the role 'assistant'" in str(error)


def test_only_the_latest_turn():
    error = refusal("{{ messages[-1]['content'] }}")
    assert "drops the text of a turn of the role 'system'" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        "{{ m['content'].split('\n')[0] }}",
        "{{ m['content'] | upper }}",
        "{{ m['content'] | escape }}",
        "{{ m['content'][:40] }}",
        "{{ m['content'] | tojson }}",
        "{{ m['content'].replace('a', 'b') }}",
        "{{ m['content'].replace('#', '') }}",
        "{{ m['content'] }}{{ m['content'] | length }}",
        "{{ m['content'] }}{{ 'quoted' if 'quoted' in m['content'] }}",
    ],
)
def test_rewritten_texts(body):
    assert "rewrites the text of turns" in str(refusal(each(body)))


def test_the_cause_is_kept():
    error = refusal("{{ raise_exception('not today') }}")
    assert isinstance(error.__cause__, TemplateError)
    assert "it fails with TemplateError: not today" in str(error)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("{{ m['content'] + m['name'] }}", UndefinedError),
        ("{{ m['content'] + 1 }}", TypeError),
        ("{{ m['content'] + (1 // 0) | string }}", ZeroDivisionError),
    ],
)
def test_templates_that_fail_otherwise(body, cause):
    assert isinstance(refusal(each(body)).__cause__, cause)


def test_a_template_that_asks_for_fewer_turns_gets_them_joined():
    strict = "{% if messages|length > 1 %}{{ messages['x']['y'] }}{% endif %}" + each(
        "{{ m['role'] + ': ' + m['content'] }}"
    )
    tokenizer = tiny_tokenizer(chat_template=strict)
    found = PromptTemplate(tokenizer).prompt(Conversation.of(TURNS[:2]), limit=1000)
    assert tokenizer.decode(found.ids) == "user: SYSTEM\n\nFIRST"


def test_long_lists_of_roles_are_cut():
    template = PromptTemplate(tiny_tokenizer(chat_template="{{ raise_exception('no') }}"))
    with pytest.raises(ReferenceLoadError, match=r"user, user, \.\.\., user, user, user:"):
        template.prompt(Conversation.of(["hi"] * 500), limit=1000)


def test_a_text_printed_twice_is_encoded_twice():
    tokenizer = tiny_tokenizer(
        chat_template=each("{{ m['content'] + ' = ' + m['content'] + ';' }}")
    )
    found = PromptTemplate(tokenizer).prompt(Conversation.of("Why?"), limit=1000)
    assert tokenizer.decode(found.ids) == "Why? = Why?;"
    assert found.request == range(7, 11)
