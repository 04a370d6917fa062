"""Few rows of one's own: move a trained scorer towards a deployment.

`adapt` is what `srr-guard adapt` calls; `adapt_head` does the same to a head and features.
"""

from srr_guard.training.adapting.choice import STRENGTHS, Search, Strength
from srr_guard.training.adapting.head import AdaptedHead, adapt_head
from srr_guard.training.adapting.report import AdaptationReport, BeforeAfter, Drift, ProbeStep
from srr_guard.training.adapting.run import Adaptation, adapt

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
