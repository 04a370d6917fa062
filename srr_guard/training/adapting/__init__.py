"""Few rows of one's own: move a trained scorer towards a deployment.

`adapt` is what `srr-guard adapt` calls; `adapt_head` does the same to a head and features.
"""

from srr_guard.extras import require_local

require_local(__name__)

from srr_guard.training.adapting.choice import STRENGTHS, Search, Strength  # noqa: E402
from srr_guard.training.adapting.head import AdaptedHead, adapt_head  # noqa: E402
from srr_guard.training.adapting.report import AdaptationReport, BeforeAfter, Drift, ProbeStep  # noqa: E402
from srr_guard.training.adapting.run import Adaptation, adapt  # noqa: E402

__all__ = [
    "STRENGTHS",
    "AdaptedHead",
    "Adaptation",
    "AdaptationReport",
    "BeforeAfter",
    "Drift",
    "ProbeStep",
    "Search",
    "Strength",
    "adapt",
    "adapt_head",
]
