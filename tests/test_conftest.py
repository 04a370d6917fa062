"""The detector of blocked event loops can fail."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loops import blocked_loops


@pytest.mark.parametrize(("pause", "expected"), [(time.sleep, 1), (asyncio.sleep, 0)])
def test_detector_tells_blocking_from_waiting(pause, expected):
    async def main():
        await asyncio.sleep(0)
        if (waiting := pause(0.1)) is not None:
            await waiting

    with blocked_loops(0.02) as blocked:
        asyncio.run(main())
    assert len(blocked) == expected


def test_async_test_that_blocks_fails(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import time\n"
        "import pytest\n"
        "async def test_blocks():\n"
        "    time.sleep(0.4)\n"
        "@pytest.mark.may_block\n"
        "async def test_blocks_on_purpose():\n"
        "    time.sleep(0.4)\n"
        "async def test_does_not():\n"
        "    pass\n"
    )
    root = Path(__file__).parents[1]
    options = [
        "-q",
        "-p",
        "conftest",
        "-c",
        str(root / "pyproject.toml"),
        "--rootdir",
        str(tmp_path),
    ]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", str(tmp_path)],
        env={"PYTHONPATH": str(root / "tests"), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "3 passed, 1 error" in result.stdout, result.stdout
