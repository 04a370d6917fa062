"""Load the reference LLM's decoder blocks, cut at depth, from any source."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srr_guard.errors import InvalidInputError, ReferenceLoadError, SRRGuardError
from srr_guard.extras import require_local
from srr_guard.reference.cache_folder import CACHE_VARIABLE, cached
from srr_guard.reference.source import ReferenceSource
from srr_guard.reference.spec import Device, DType, ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

_CONVERSION = 1
_log = logging.getLogger("srr_guard")


def pick_device(device: Device) -> torch.device:
    """Turn `auto` into the accelerator at hand, or the CPU."""
    import torch

    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """Turn `auto` into the precision that suits the device."""
    import torch

    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            dtype
        ]
    if device.type == "cpu":
        return torch.float32
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if bf16 else torch.float16


def placement(spec: ModelSpec) -> tuple[torch.device, torch.dtype]:
    """Device and precision of a model."""
    device = pick_device(spec.device)
    return device, pick_dtype(spec.dtype, device)


def model_folder(source: ReferenceSource) -> Path:
    """A folder in the Hugging Face layout; a GGUF file is converted once, into the cache.

    transformers takes ten seconds to unpack a GGUF file and refuses to save what it loaded,
    so the unpacked weights are copied into a fresh model, which is saved.
    """
    if not source.is_gguf:
        return source.path
    folder = cached("reference", f"{source.digest()[:16]}-v{_CONVERSION}")
    if not (folder / "config.json").is_file():
        _convert_gguf(source.path, folder)
    return folder


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder.

    Raises:
        ReferenceLoadError: It cannot be read.
    """
    from transformers import AutoTokenizer

    with _loading(folder):
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def model_shape(folder: Path) -> tuple[int, int]:
    """Width of the hidden states and number of decoder blocks, from the configuration.

    Raises:
        ReferenceLoadError: It cannot be read.
    """
    from transformers import AutoConfig

    with _loading(folder):
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True).get_text_config()
    return int(config.hidden_size), int(config.num_hidden_layers)


def load_blocks(
    folder: Path, *, depth: int | None, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, int]:
    """Load a decoder without LM head and without the blocks after `depth`.

    Args:
        folder: A model folder.
        depth: The deepest block needed, from 1; None loads all of them.
        device: Where the weights go.
        dtype: Their precision.

    Returns:
        The module in evaluation mode, and how many blocks the whole model has.

    Raises:
        InvalidInputError: The model has fewer blocks than `depth`.
        ReferenceLoadError: It cannot be read.
    """
    from transformers import AutoConfig, AutoModel

    with _loading(folder):
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        text = config.get_text_config()
        total = int(text.num_hidden_layers)
        if depth is not None:
            check_depth(depth, total)
            _cut(text, depth)
        model = AutoModel.from_pretrained(
            str(folder), config=config, dtype=dtype, local_files_only=True
        )
    return model.to(device).eval().requires_grad_(False), total


def load_causal_lm(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a whole causal LM, LM head included, in evaluation mode.

    Args:
        folder: A model folder.
        device: Where the weights go.
        dtype: Their precision.

    Raises:
        ReferenceLoadError: It cannot be read, or is no causal LM.
    """
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    with _loading(folder):
        model = auto.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
        return model.to(device).eval().requires_grad_(False)


def check_depth(depth: int, blocks: int) -> None:
    """Refuse a depth outside a model.

    Raises:
        InvalidInputError: It is below 1 or above the number of blocks.
    """
    if not 1 <= depth <= blocks:
        raise InvalidInputError(
            f"depth={depth!r} is outside this reference LLM's blocks, 1 to {blocks}"
        )


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of decoder blocks, found by its length; no architecture is named.

    Raises:
        ReferenceLoadError: There is no such list.
    """
    from torch import nn

    config: Any = model.config
    count = config.get_text_config().num_hidden_layers
    lists = [
        m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count and count
    ]
    if not lists:
        raise ReferenceLoadError(
            f"{type(model).__name__} has no list of {count} decoder blocks: use a causal LM"
        )
    return lists[0]


def _cut(config: Any, depth: int) -> None:
    """Shorten the block count, and every per-block list beside it (such as `layer_types`)."""
    total = config.num_hidden_layers
    for key, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == total:
            setattr(config, key, value[:depth])
    config.num_hidden_layers = depth


def _convert_gguf(file: Path, folder: Path) -> None:
    require_local(f"The GGUF file {file.name!r}", "torch", "transformers", "gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    auto: Any = AutoModelForCausalLM
    _log.info("unpacking %s once into %s", file.name, folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    except OSError as error:
        raise ReferenceLoadError(
            f"cannot unpack {file.name!r} into {str(folder.parent)!r} ({error}): make "
            f"room there, or set ${CACHE_VARIABLE} to a folder that can be written"
        ) from error
    try:
        with _loading(file):
            where = {"gguf_file": file.name, "local_files_only": True}
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **where)
            loaded = auto.from_pretrained(str(file.parent), dtype=torch.float32, **where)
            config = loaded.config
            if hasattr(config, "quantization_config"):
                del config.quantization_config
            fresh = auto.from_config(config, dtype=torch.float32)
            fresh.load_state_dict(loaded.state_dict())
            fresh.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
        try:
            draft.rename(folder)
        except OSError:  # another process was faster: its result is the same
            if not (folder / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """Quiet transformers' progress bars and reports; turn its errors into ours."""
    from transformers.utils import logging

    hf_logging: Any = logging

    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SRRGuardError:
        raise
    except Exception as error:  # transformers raises many kinds for files it cannot read
        raise ReferenceLoadError(
            f"cannot load the reference LLM from {os.fspath(path)!r}: {str(error).rstrip('.')}. If "
            "a file is cut off or damaged, fetch it again; a full disk gives such errors too"
        ) from error
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
