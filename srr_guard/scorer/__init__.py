"""The trained scorer: engine, head and bundles."""

from srr_guard.scorer.bundle import BundleInfo, ScorerBundle
from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.remote import RemoteScorer
from srr_guard.scorer.srr_scorer import SRRScorer

__all__ = ["BundleInfo", "HeadConfig", "RemoteScorer", "SRRScorer", "ScorerBundle"]
