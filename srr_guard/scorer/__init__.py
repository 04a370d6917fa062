"""The trained scorer: head, loss, calibration and bundles."""

from srr_guard.scorer.bundle import BundleInfo, ScorerBundle
from srr_guard.scorer.config import HeadConfig

__all__ = ["BundleInfo", "HeadConfig", "ScorerBundle"]
