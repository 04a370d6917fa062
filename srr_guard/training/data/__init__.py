"""Labelled responses: read, split, cut, augmented, disguised."""

from srr_guard.training.data.reading import (
    Data,
    contrast_folder,
    data_digests,
    data_items,
    read_rows,
)
from srr_guard.training.data.rows import LabelledResponse, dialogue
from srr_guard.training.data.splitting import by_prompt, sample_rows, split_by_goal

__all__ = [
    "Data",
    "LabelledResponse",
    "by_prompt",
    "contrast_folder",
    "data_digests",
    "data_items",
    "dialogue",
    "read_rows",
    "sample_rows",
    "split_by_goal",
]
