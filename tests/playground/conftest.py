"""A playground on this machine: a model with a script whose answers come when they are let."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playgrounds import Served, serve_playground


@pytest.fixture
def served() -> Iterator[Served]:
    """A playground of its own, with two scorers."""
    with serve_playground() as running:
        yield running


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        why = "no Chromium is installed: `apt-get install chromium`"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(params=["light"])
def page(request, browser, served: Served) -> Iterator[Any]:
    """The page, opened by its link; what the console says fails the test."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900},
        color_scheme=request.param,
        reduced_motion="reduce",
    )
    found = context.new_page()
    said: list[str] = []
    found.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    found.on("pageerror", lambda error: said.append(str(error)))
    found.goto(served.link)
    found.wait_for_selector("html[data-ready]")
    yield found
    context.close()
    refused = "error: Failed to load resource"  # an error of the server, which the page shows
    assert [line for line in said if not line.startswith(refused)] == []
