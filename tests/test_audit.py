"""AuditLog: every decision is one line, whatever rotates and whoever writes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from srr_guard import SafetyRanker, SamplingPolicy
from srr_guard.audit import AuditLog
from srr_guard.errors import AllCandidatesFailedError, ConfigurationError
from srr_guard.testing import FakeScorer, ScriptedChatModel


def guard(*answers, on_decision) -> SafetyRanker:
    return SafetyRanker(
        ScriptedChatModel(answers=list(answers)),
        scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1),
        sampling=SamplingPolicy(n=2, backoff=0.0, attempts=1),
        on_decision=on_decision,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def lines(*files):
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


class TestLine:
    def test_holds_the_decision(self, path):
        guard("bad", "good", on_decision=AuditLog(path)).invoke("SECRET question")
        (line,) = lines(path)
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["reason"] == "best_of_n"
        assert (line["sampled"], line["failed"], line["failures"]) == (2, 0, [])
        assert {c["p_safe"] for c in line["candidates"]} == {0.1, 0.9}
        assert "SECRET" not in path.read_text()

    def test_failures_by_type(self, path):
        guard("good", ValueError("SECRET"), on_decision=AuditLog(path)).invoke("q")
        assert lines(path)[0]["failures"] == ["ValueError"]
        assert "SECRET" not in path.read_text()

    def test_requests_without_candidates(self, path):
        with pytest.raises(AllCandidatesFailedError):
            guard(ValueError("SECRET"), on_decision=AuditLog(path)).invoke("q")
        (line,) = lines(path)
        assert (line["reason"], line["candidates"]) == ("failed", [])
        assert set(line["failures"]) == {"ValueError"}

    def test_texts_are_redacted_by_default(self, path):
        guard("SECRET good", on_decision=AuditLog(path)).invoke("q")
        first = lines(path)[0]["candidates"][0]
        assert first["sha256"] == hashlib.sha256(b"SECRET good").hexdigest()
        assert first["characters"] == 11
        assert "SECRET" not in path.read_text()

    def test_whole_texts(self, path):
        text = 'good "quotes"\nline \u2028 and \ud800 surrogate'
        guard(text, on_decision=AuditLog(path, redact="nothing")).invoke("q")
        (record,) = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert record["candidates"][0]["text"] == text.replace("\ud800", "\ufffd")

    def test_own_redaction(self, path):
        audit = AuditLog(path, redact=lambda text: text.replace("4111", "****"))
        guard("good 4111", on_decision=audit).invoke("q")
        assert lines(path)[0]["candidates"][0]["text"] == "good ****"


class TestFile:
    def test_lines_are_appended(self, path):
        for _ in range(2):
            with AuditLog(path) as audit:
                guard("good", on_decision=audit).invoke("q")
        assert len(lines(path)) == 2
        assert path.stat().st_mode & 0o077 == 0

    def test_goes_on_after_close(self, path):
        audit = AuditLog(path)
        for _ in range(2):
            guard("good", on_decision=audit).invoke("q")
            audit.close()
        assert len(lines(path)) == 2

    def test_rotates(self, path):
        audit = AuditLog(path, max_bytes=1500, backups=2)
        guarded = guard("good", on_decision=audit)
        for _ in range(12):
            guarded.invoke("q")
        files = sorted(path.parent.iterdir())
        assert [f.name for f in files] == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
        assert all(f.stat().st_size <= 1500 for f in files)
        times = [line["time"] for line in lines(*reversed(files))]
        assert times == sorted(times)

    def test_without_backups(self, path):
        audit = AuditLog(path, max_bytes=1, backups=0)
        guarded = guard("good", on_decision=audit)
        for _ in range(3):
            guarded.invoke("q")
        assert len(lines(path)) == 1
        assert list(path.parent.iterdir()) == [path]

    def test_what_cannot_be_written_fails_the_request(self, path):
        guarded = guard("good", on_decision=AuditLog(path))
        path.mkdir()
        with pytest.raises(OSError, match="audit"):
            guarded.invoke("q")

    def test_threads_lose_nothing(self, path):
        audit = AuditLog(path, max_bytes=20_000, backups=100)
        decision = guard("good", on_decision=None).decide("q")
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: audit(decision), range(500)))
        assert len(lines(*path.parent.iterdir())) == 500

    async def test_the_event_loop_is_not_held_up(self, path):
        audit = AuditLog(path, max_bytes=20_000, backups=3)
        guarded = guard("good " + "x" * 1000, on_decision=audit)
        await asyncio.gather(*(guarded.ainvoke("q") for _ in range(50)))
        assert sum(f.stat().st_size for f in path.parent.iterdir()) > 20_000


class TestArguments:
    def test_no_folder(self, path):
        with pytest.raises(ConfigurationError, match="create it first"):
            AuditLog(path / "deeper")

    def test_a_folder_is_no_file(self, path):
        with pytest.raises(ConfigurationError, match="is a folder"):
            AuditLog(path.parent)

    @pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"backups": -1}, {"redact": "prompt"}])
    def test_out_of_range(self, path, wrong):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            AuditLog(path, **wrong)
