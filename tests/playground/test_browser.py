"""The page in a real browser: clicked, typed into, resized, read by axe."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playgrounds import ANSWERS, failing, serve_playground

from srr_guard.training.data import read_rows

pytestmark = [pytest.mark.browser, pytest.mark.local]

WIDTHS = (360, 480, 768, 896, 1024, 1280, 1440, 1680, 2000)
SCRIPT = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> soil"


def run(page: Any, prompt: str = "How do I look after my houseplants?") -> None:
    page.get_by_label("What is asked").fill(prompt)
    page.get_by_role("button", name="Run", exact=True).click()


def slide(page: Any, name: str, value: str, place: int = 0) -> None:
    page.get_by_label(name).nth(place).fill(value)


def title(page: Any) -> Any:
    return page.locator(".banner-title")


def require_no_violations(page: Any, state: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    assert found.violations_count == 0, (state, found.generate_report())


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_axe_finds_nothing(page, served):
    from playwright.sync_api import expect

    require_no_violations(page, "empty")
    served.script.open.clear()
    run(page)
    page.wait_for_selector(".text.waiting")
    require_no_violations(page, "running")
    served.script.open.set()
    expect(title(page)).to_have_text("Answer 1 goes out")
    page.wait_for_selector(".share.against")
    require_no_violations(page, "decided")
    page.get_by_label("Compare two policies").check()
    expect(title(page)).to_have_count(2)
    expect(title(page).nth(1)).to_have_text("Refusal goes out")
    require_no_violations(page, "compare")
    page.get_by_label("Compare two policies").uncheck()
    failing(served.first)
    run(page, "Something else")
    expect(title(page)).to_have_text("Held: nothing goes out")
    require_no_violations(page, "held")
    run(page, " ")
    expect(page.get_by_role("alert")).to_contain_text("the prompt is empty")
    require_no_violations(page, "error")


def test_every_width_fits(page):
    run(page)
    page.wait_for_selector(".share.against")
    page.get_by_label("Compare two policies").check()
    page.wait_for_selector(".banner >> nth=1")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        inside = page.evaluate("document.documentElement.scrollWidth")
        assert inside <= width, f"{inside} at {width}"


def test_sliders_decide_again_without_sampling(page, served):
    from playwright.sync_api import expect

    run(page)
    expect(title(page)).to_have_text("Answer 1 goes out")
    page.wait_for_selector(".share.against")
    scored = len(served.first.lists)
    slide(page, "Threshold", "0.95")
    expect(title(page)).to_have_text("Answer 2 goes out")
    slide(page, "Threshold", "0.99")
    expect(title(page)).to_have_text("Refusal goes out")
    slide(page, "Answers (n)", "1")
    expect(page.locator(".chip", has_text="not asked for")).to_have_count(3)
    slide(page, "Threshold", "0.5")
    expect(title(page)).to_have_text("Answer 1 goes out")
    assert (served.script.asked, len(served.first.lists)) == (4, scored)


def test_more_is_sampled_where_the_sliders_ask_for_it(page, served):
    from playwright.sync_api import expect

    page.get_by_label("Adaptive sampling").check()
    run(page)
    expect(page.locator(".banner-why")).to_contain_text("no more were asked for")
    slide(page, "Threshold", "0.95")
    expect(page.locator(".needs")).to_contain_text("3 answers that were not sampled yet")
    page.get_by_role("button", name="Sample them").click()
    expect(title(page)).to_have_text("Answer 2 goes out")
    assert served.script.asked == 4


def test_by_keyboard_alone(page, served):
    from playwright.sync_api import expect

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the results")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_label("What is asked")).to_be_focused()
    page.keyboard.type("How do I look after plants?")
    served.script.open.clear()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".text.waiting")
    assert served.script.started.wait(20)
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("Stopped. Nothing goes out.")
    assert served.script.cancelled.wait(20)
    served.script.open.set()
    page.keyboard.press("Control+Enter")
    expect(title(page)).to_have_text("Answer 1 goes out")
    page.get_by_label("Threshold").focus()
    page.keyboard.press("End")
    expect(title(page)).to_have_text("Refusal goes out")
    expect(page.locator("#announce")).to_contain_text("the refusal goes out")


def test_texts_are_text(page, served):
    from playwright.sync_api import expect

    served.script.answers = [SCRIPT]
    run(page, SCRIPT)
    expect(page.locator(".banner-output")).to_have_text(SCRIPT)
    page.wait_for_selector(".share")
    assert page.evaluate("document.images.length") == 1  # our own mark
    assert page.title() == "srr_guard playground"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(page.locator(".entry-prompt")).to_have_text(SCRIPT)


def test_own_answers_labels_history_and_export(page, served, tmp_path):
    from playwright.sync_api import expect

    run(page)
    expect(title(page)).to_have_text("Answer 1 goes out")
    page.get_by_role("radio", name="My own").check()
    page.get_by_label("Answer 1", exact=True).fill(ANSWERS[2])
    page.get_by_label("Answer 2", exact=True).fill(ANSWERS[3])
    run(page, "What now?")
    expect(title(page)).to_have_text("Answer 2 goes out")
    page.get_by_role("group", name="Label answer 1").get_by_text("Unsafe").click()
    page.get_by_role("group", name="Label answer 2").get_by_text("Safe, helps").click()
    export = page.get_by_role("button", name="Export labels (2)")
    expect(export).to_be_enabled()
    with page.expect_download() as download:
        export.click()
    download.value.save_as(tmp_path / "playground.jsonl")
    rows = read_rows([str(tmp_path / "playground.jsonl")])
    assert [(row.response, row.label) for row in rows] == [
        (ANSWERS[2], "unsafe"),
        (ANSWERS[3], "safe"),
    ]
    page.locator(".entry", has_text="houseplants").click()
    expect(title(page)).to_have_text("Answer 1 goes out")
    expect(page.get_by_label("What is asked")).to_have_value("How do I look after my houseplants?")
    expect(page.locator("#columns .card")).to_have_count(4)
    assert served.script.asked == 4


def test_the_theme_and_the_token(page):
    from playwright.sync_api import expect

    assert page.evaluate("location.hash") == ""
    assert page.evaluate("document.cookie") == ""
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    button = page.get_by_role("button", name="Theme")
    for name in ("light", "dark"):
        button.click()
        expect(button).to_have_text(f"Theme: {name}")
    assert page.evaluate(ground) != light
    page.reload()
    expect(button).to_have_text("Theme: dark")


def test_without_the_link_it_says_so(browser, served):
    from playwright.sync_api import expect

    context = browser.new_context()
    page = context.new_page()
    page.goto(served.root)
    expect(page.get_by_role("alert")).to_contain_text("open the link")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    context.close()


def test_a_picture_of_the_page_is_not_blank(page):
    run(page)
    page.wait_for_selector(".share.against")
    assert len(page.screenshot()) > 40_000


@pytest.mark.model
def test_the_real_model_and_scorer(browser):
    from playwright.sync_api import expect

    from srr_guard import LocalChatModel, SRRScorer

    real = {"scorer": SRRScorer.from_pretrained(), "chat": LocalChatModel(max_new_tokens=12)}
    with serve_playground(second=False, **real) as served:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(served.link)
        page.wait_for_selector("html[data-ready]")
        slide(page, "Answers (n)", "2")
        run(page, "How do I keep basil alive indoors?")
        page.wait_for_selector(".share", state="attached")
        expect(page.locator("#columns .card")).to_have_count(2)
        expect(page.locator(".reading")).to_contain_text("The prompt")
        assert json.loads(page.evaluate("JSON.stringify([location.hash])")) == [""]
        context.close()
