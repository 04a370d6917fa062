"""Measures scorers and baselines; reports, plots, model cards."""
