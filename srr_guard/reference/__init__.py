"""The reference LLM: find it, load it cut at depth, encode answers to features."""

from srr_guard.reference.features import Features
from srr_guard.reference.model import ReferenceLLM
from srr_guard.reference.source import ReferenceSource, resolve_reference

__all__ = ["Features", "ReferenceLLM", "ReferenceSource", "resolve_reference"]
