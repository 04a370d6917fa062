"""Fixtures for all tests. A test fails when something blocks an event loop in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Imported by LangChain on the first call of any runnable, which would block the loop once.
import langsmith.run_helpers  # noqa: F401
import pytest
from limits import Limits
from loops import blocked_loops
from tiny import save_tiny_lm
from without_local import WithoutLocal, missing_package

from srr_guard.reference import ReferenceLLM
from srr_guard.scorer import BundleInfo, HeadConfig, ScorerBundle
from srr_guard.scorer.fingerprint import Fingerprint

BLOCKED_AFTER = 0.25  # seconds


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "may_block: an async test that calls a blocking function itself, on purpose"
    )
    if (package := missing_package()) is not None:
        config.pluginmanager.register(WithoutLocal(package))


@pytest.fixture(autouse=True)
def event_loop_stays_free(request: pytest.FixtureRequest) -> Iterator[None]:
    with blocked_loops(BLOCKED_AFTER) as blocked:
        yield
    if blocked and request.node.get_closest_marker("may_block") is None:
        pytest.fail(f"the event loop was blocked for {blocked} seconds")


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Limits]:
    """Time limits without a clock."""
    limits = Limits(monkeypatch)
    yield limits
    limits.release()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_lm(tmp_path_factory.mktemp("llama"), layers=4)


@pytest.fixture(scope="session")
def tiny_llm(tiny_folder: Path) -> ReferenceLLM:
    return ReferenceLLM.load(tiny_folder)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_llm: ReferenceLLM, tmp_path_factory: pytest.TempPathFactory) -> ScorerBundle:
    """An untrained scorer for the tiny LM: its numbers mean nothing, but they are numbers."""
    import torch

    from srr_guard.scorer.head import SRRHead

    config = HeadConfig(
        width=tiny_llm.width, depths=(2, 3), poolings=("mean",), pointwise=True, listwise=True
    )
    info = BundleInfo(
        name="tiny",
        head=config,
        reference=tiny_llm.name,
        reference_digest=tiny_llm.digest,
        template_digest=tiny_llm.template_digest,
        window=64,
        overlap=16,
        prompt_limit=256,
        transformers_version="5",
        data={"made_up.jsonl": "0" * 64},
        sources=(),
        seed=0,
        made_by="test",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = SRRHead(config)
    return ScorerBundle.save(
        tmp_path_factory.mktemp("bundle") / "tiny",
        info=info,
        head=head,
        card="# tiny\n",
        fingerprint=Fingerprint.of(tiny_llm, info.features),
    )
