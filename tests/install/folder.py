"""Make folders in the Hugging Face layout of the packaged GGUF file: as it is, and in bfloat16."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from srr_guard.reference import resolve_reference
from srr_guard.reference.weights import model_folder

plain, bfloat16 = Path(sys.argv[1]), Path(sys.argv[2])
made = model_folder(resolve_reference())
shutil.copytree(made, plain)
AutoModelForCausalLM.from_pretrained(made, dtype=torch.bfloat16).save_pretrained(bfloat16)
AutoTokenizer.from_pretrained(made).save_pretrained(bfloat16)
