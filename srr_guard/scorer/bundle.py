"""Scorer bundles: a folder with `config.json`, `model.safetensors` and a model card.

Nothing in a bundle is ever unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from srr_guard.errors import BundleNotFoundError, CorruptBundleError, IncompatibleScorerError
from srr_guard.extras import require_local
from srr_guard.reference.features import FeatureSpec
from srr_guard.scorer.config import HeadConfig

if TYPE_CHECKING:
    from srr_guard.reference import ReferenceLLM
    from srr_guard.scorer.head import SRRHead

DEFAULT_BUNDLE = "smollm2-135m"
FORMAT = 2
_SHIPPED = Path(__file__).parent.parent / "bundles"
_FILES = ("config.json", "model.safetensors")


class SourceSummary(BaseModel):
    """Rows that one source gave to the training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    safe: int
    unsafe: int
    licences: tuple[str, ...]


class BundleInfo(BaseModel):
    """The description of a bundle: its origin, and the reference LLM it fits.

    Attributes:
        format: Version of the bundle format.
        name: Name of the bundle.
        head: Design of the head.
        reference: Name of the reference LLM it was trained for.
        reference_digest: SHA-256 over that model's weights and tokenizer.
        template_digest: Digest of its template.
        window: Tokens per window of a candidate.
        overlap: Tokens shared by neighbouring windows.
        prompt_limit: Most tokens of a prompt.
        transformers_version: Version of transformers that made the features.
        data: SHA-256 of each file trained on, by name.
        sources: What each source gave to the training.
        options: Options of the training run.
        seed: Random seed of the training.
        made_by: Version of srr_guard that trained it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: str
    head: HeadConfig
    reference: str
    reference_digest: str
    template_digest: str
    window: int = Field(ge=1)
    overlap: int = Field(ge=0)
    prompt_limit: int = Field(ge=1)
    transformers_version: str
    data: Mapping[str, str]
    sources: tuple[SourceSummary, ...]
    options: Mapping[str, JsonValue] = {}
    seed: int
    made_by: str

    @property
    def features(self) -> FeatureSpec:
        """Which states are read of a request."""
        return FeatureSpec(self.head.depths, self.window, self.overlap, self.prompt_limit)


@dataclass(frozen=True, eq=False)
class ScorerBundle:
    """A bundle in a folder on this machine.

    Attributes:
        folder: Where it is.
        info: Its description.

    Example:
        >>> ScorerBundle.find().info.head.pointwise
        True
    """

    folder: Path
    info: BundleInfo

    @classmethod
    def find(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> ScorerBundle:
        """Find a bundle and read its description.

        Args:
            name: A shipped bundle's name, a folder, or a hub id; None: the default bundle.
            revision: Branch, tag or commit on the hub.
            local_files_only: Never ask the hub.

        Raises:
            BundleNotFoundError: There is no such bundle.
            CorruptBundleError: Its description cannot be read.
        """
        wanted = str(name or DEFAULT_BUNDLE)
        if (_SHIPPED / wanted / "config.json").is_file():
            folder = _SHIPPED / wanted
        elif Path(wanted).expanduser().exists():
            folder = Path(wanted).expanduser()
        else:
            folder = _from_hub(wanted, revision=revision, local_files_only=local_files_only)
        return cls(folder=folder, info=_read_info(folder))

    @classmethod
    def shipped(cls) -> list[str]:
        """Names of the bundles inside the package."""
        return sorted(p.parent.name for p in _SHIPPED.glob("*/config.json"))

    def load_head(self) -> SRRHead:
        """Load the head's weights.

        Raises:
            CorruptBundleError: They are missing, cut off, or do not fit the description.
        """
        require_local("A scorer's head")
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from srr_guard.scorer.head import SRRHead

        head = SRRHead(self.info.head)
        try:
            head.load_state_dict(load_file(self.folder / "model.safetensors"))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CorruptBundleError(
                f"the weights of the scorer bundle {str(self.folder)!r} cannot be loaded "
                f"({str(error).strip()}): fetch or train it again"
            ) from error
        return head.eval().requires_grad_(False)

    def check_fits(self, llm: ReferenceLLM) -> None:
        """Refuse a reference LLM other than the one this bundle was trained for.

        Raises:
            IncompatibleScorerError: Weights, template, width or depth differ.
        """
        info = self.info
        ours = {
            "digest": info.reference_digest[:16],
            "template": info.template_digest,
            "width": info.head.width,
        }
        theirs = {
            "digest": llm.digest[:16],
            "template": llm.template_digest,
            "width": llm.width,
        }
        if ours != theirs or llm.depth < max(info.head.depths):
            raise IncompatibleScorerError(
                f"the scorer bundle {info.name!r} was trained for the reference LLM "
                f"{info.reference!r} ({_pairs(ours)}, depths {info.head.depths}), but "
                f"{llm.name!r} is loaded ({_pairs(theirs)}, {llm.depth} blocks): load that model, "
                "or train a bundle for this one with `srr-guard train --reference`"
            )

    @classmethod
    def save(cls, folder: Path, *, info: BundleInfo, head: SRRHead, card: str) -> ScorerBundle:
        """Write a bundle.

        Args:
            folder: Where to; made if missing.
            info: Its description.
            head: The trained head.
            card: Its model card, in Markdown.
        """
        require_local("Saving a scorer")
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in head.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        (folder / "README.md").write_text(card)
        (folder / "config.json").write_text(info.model_dump_json(indent=2) + "\n")
        return cls(folder=folder, info=info)


def _read_info(folder: Path) -> BundleInfo:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise BundleNotFoundError(
            f"no scorer bundle in {str(folder)!r}: {', '.join(missing)} missing"
        )
    try:
        record: Any = json.loads((folder / "config.json").read_text())
        if isinstance(record, dict) and record.get("format", FORMAT) != FORMAT:
            raise CorruptBundleError(
                f"the scorer bundle {str(folder)!r} has format {record['format']!r}, this version "
                f"of srr_guard reads {FORMAT}: upgrade srr_guard or train the bundle again"
            )
        return BundleInfo.model_validate(record)
    except ValueError as error:
        raise CorruptBundleError(
            f"the description of the scorer bundle {str(folder)!r} cannot be read: {error}"
        ) from error


def _from_hub(name: str, *, revision: str | None, local_files_only: bool) -> Path:
    require_local(f"Looking for the scorer bundle {name!r} on the hub", "huggingface_hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[*_FILES, "README.md", "probe/*"],
                local_files_only=local_files_only,
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise BundleNotFoundError(
            f"no scorer bundle {name!r}: it is not one of the shipped ones "
            f"({', '.join(ScorerBundle.shipped()) or 'none'}), not a folder, and could not be "
            f"fetched from the hub ({type(error).__name__})"
        ) from error


def _pairs(record: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in record.items())
