"""The page when things go wrong: a server that ends, old links, reloads, two tabs, odd texts."""

from __future__ import annotations

from typing import Any

import pytest
from playgrounds import ANSWERS, ByWord, Script, ScriptedLocal
from servers import running

from srr_guard.playground.app import Playground
from srr_guard.playground.bench import Bench
from srr_guard.playground.server import listen_here, playground_server
from srr_guard.training.data import read_rows

pytestmark = [pytest.mark.browser, pytest.mark.local]

HEBREW = "שלום, איך לטפל בצמחים? (soil) 1, 2, 3"
LONG = "soil" + "x" * 15_000
OVERRIDE = "soil \u202eevil\u202c <b>x</b> &amp; [red]y[/] \x1b[31m"


def run(page: Any, prompt: str = "How do I look after plants?") -> None:
    page.get_by_label("What is asked").fill(prompt)
    page.get_by_role("button", name="Run", exact=True).click()


def title(page: Any) -> Any:
    return page.locator(".banner-title")


def wait_for_direction(page: Any, place: str, wanted: str) -> None:
    shown = "([place, wanted]) => document.querySelector(place).matches(`:dir(${wanted})`)"
    page.wait_for_function(shown, arg=[place, wanted])


def ready(page: Any) -> None:
    page.wait_for_selector("html[data-ready]")


@pytest.mark.may_block  # the test itself waits, on the browser's loop, until the server has ended
def test_a_server_that_ends_in_the_middle_of_a_run(browser: Any) -> None:
    from playwright.sync_api import expect

    script = Script(ANSWERS)
    bench = Bench(model=ScriptedLocal(script=script), scorer=ByWord())
    bound = listen_here("127.0.0.1", 0)
    playground = Playground(bench, host="127.0.0.1", port=bound.getsockname()[1])
    page = browser.new_context().new_page()
    with running(playground_server(playground, bench), [bound]):
        page.goto(playground.link)
        ready(page)
        script.open.clear()
        run(page)
        page.wait_for_selector(".text.waiting")
        assert script.started.wait(20)
    expect(page.get_by_role("alert")).to_contain_text("is `srr-guard playground` still running?")
    expect(page.locator("#status")).not_to_contain_text("Done")
    expect(page.locator(".text.waiting")).to_have_count(0)
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    run(page)
    expect(page.get_by_role("alert")).to_contain_text("the server does not answer")
    page.context.close()


def test_an_old_link_and_a_new_one_in_the_same_tab(browser: Any, served: Any) -> None:
    from playwright.sync_api import expect

    page = browser.new_context().new_page()
    page.goto(f"{served.root}/#token=of-an-earlier-start")
    expect(page.get_by_role("alert")).to_contain_text("the link is not valid any more")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    page.evaluate("link => { location.href = link; }", served.link)  # only the hash is another
    ready(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.evaluate("location.hash") == ""
    page.context.close()


def test_a_reload_in_the_middle_of_a_run_stops_it(page: Any, served: Any) -> None:
    from playwright.sync_api import expect

    served.script.open.clear()
    run(page)
    page.wait_for_selector(".text.waiting")
    assert served.script.started.wait(20)
    page.reload()
    ready(page)
    assert served.script.cancelled.wait(20)
    served.script.open.set()
    expect(page.locator(".entry")).to_contain_text("stopped")
    page.locator(".entry").click()
    expect(page.get_by_label("What is asked")).to_have_value("How do I look after plants?")
    run(page)
    expect(title(page)).to_have_text("Answer 1 goes out")


def test_back_and_forward(page: Any, served: Any) -> None:
    from playwright.sync_api import expect

    run(page)
    expect(title(page)).to_have_text("Answer 1 goes out")
    page.goto("about:blank")
    page.go_back()
    ready(page)
    page.locator(".entry").click()
    expect(title(page)).to_have_text("Answer 1 goes out")


def test_two_tabs_share_the_history(page: Any, served: Any, tmp_path: Any) -> None:
    from playwright.sync_api import expect

    other = page.context.new_page()
    other.goto(served.root)
    ready(other)
    run(page)
    expect(title(page)).to_have_text("Answer 1 goes out")
    run(other, "Something else")
    expect(title(other)).to_have_text("Answer 1 goes out")
    other.get_by_role("group", name="Label answer 1").get_by_text("Safe, helps").click()
    expect(other.get_by_role("button", name="Export labels (1)")).to_be_enabled()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # the tab is shown again
    expect(page.locator(".entry")).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export labels (1)").click()
    download.value.save_as(tmp_path / "rows.jsonl")
    assert [row.prompt for row in read_rows([str(tmp_path / "rows.jsonl")])] == ["Something else"]


def test_the_keyboard_keeps_its_place(page: Any, served: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_label("What is asked").fill("How do I look after plants?")
    button = page.get_by_role("button", name="Run", exact=True)
    served.script.open.clear()
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    served.script.open.set()
    expect(title(page)).to_have_text("Answer 1 goes out")
    expect(button).to_be_focused()
    page.locator(".entry").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("Shown again from the history.")
    expect(page.locator(".entry")).to_be_focused()
    page.get_by_role("group", name="Label answer 1").get_by_text("Unsafe").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Export labels (1)")).to_be_enabled()
    expect(page.get_by_role("group", name="Label answer 1").get_by_text("Unsafe")).to_be_focused()


def test_an_example_by_keyboard_leads_to_the_prompt(page: Any) -> None:
    from playwright.sync_api import expect

    page.locator("button.start").first.focus()
    page.keyboard.press("Enter")
    expect(title(page)).to_be_visible()
    expect(page.get_by_label("What is asked")).to_be_focused()


def test_more_answers_by_keyboard(page: Any) -> None:
    from playwright.sync_api import expect

    run(page)
    expect(title(page)).to_have_text("Answer 1 goes out")
    page.get_by_label("Answers (n)").fill("6")
    button = page.get_by_role("button", name="Sample them")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_be_hidden()
    expect(page.locator("#results")).to_be_focused()


@pytest.mark.parametrize("page", ["dark"], indirect=True)
@pytest.mark.parametrize("text", [HEBREW, LONG, OVERRIDE], ids=["hebrew", "long", "override"])
def test_odd_texts_on_a_narrow_page(text: str, page: Any, served: Any) -> None:
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 360, "height": 740})
    served.script.answers = [text]
    run(page, text)
    expect(page.locator(".banner-output")).to_have_text(text)
    page.wait_for_selector(".share", state="attached")
    page.get_by_label("Compare two policies").check()
    expect(title(page)).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for place in (".banner-output", ".card .text", ".entry-prompt", "#prompt"):
        wait_for_direction(page, place, "rtl" if text == HEBREW else "ltr")
    wait_for_direction(page, ".banner-title", "ltr")


def test_a_prompt_that_is_too_long_is_said(page: Any) -> None:
    from playwright.sync_api import expect

    run(page, "x" * 20_001)
    expect(page.get_by_role("alert")).to_contain_text("at most 20000 characters")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
