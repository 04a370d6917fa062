"""Measures scorers and baselines; reports, plots, model cards."""

from srr_guard.extras import require_local

require_local(__name__)
