"""Runs `srr-guard serve` with a fake scorer; for tests that send signals to a process.

python gateway_process.py CONFIG.yaml
"""

from __future__ import annotations

import sys

from servers import good_is_safe

from srr_guard.serving import load_config, serve
from srr_guard.testing import FakeScorer

if __name__ == "__main__":
    file = sys.argv[1]
    serve(load_config(file), scorer=FakeScorer(good_is_safe), reread=lambda: load_config(file))
