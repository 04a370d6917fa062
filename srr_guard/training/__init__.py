"""From labelled responses to a scorer bundle: data, features, fit, evaluation, card.

`train`, `adapt`, `tune` and `evaluate` are what the commands of these names call. All names are
resolved on first use and need the extra `local`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from srr_guard.extras import require_local

if TYPE_CHECKING:
    from srr_guard.training.adapting.run import Adaptation, adapt
    from srr_guard.training.evaluation.evaluate import evaluate
    from srr_guard.training.evaluation.report import Report
    from srr_guard.training.run import TrainingOptions, train
    from srr_guard.training.tuning import tune

_MODULE_OF = {
    "Adaptation": "adapting.run",
    "Report": "evaluation.report",
    "TrainingOptions": "run",
    "adapt": "adapting.run",
    "evaluate": "evaluation.evaluate",
    "train": "run",
    "tune": "tuning",
}

__all__ = ["Adaptation", "Report", "TrainingOptions", "adapt", "evaluate", "train", "tune"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_local(f"{__name__}.{name}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__]
