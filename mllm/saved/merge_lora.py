"""Fold the LoRA layers of a trained model into its plain matrices.

semhitok merge-lora --model runs/smollm2-135m/mllm/model --out runs/merged
"""

import argparse
from pathlib import Path

from mllm.model.lora import merge
from mllm.saved.load import load_model, load_processor
from runtime.errors import UserError
from tokenizer.saved.model_folder import whole_folder


def merge_lora(model: Path, out: Path) -> Path:
    """Write the plain model of a LoRA one; its logits are the same to rounding.

    Raises:
        UserError: if `model` holds no model, or one without LoRA layers.
    """
    if model.resolve() == out.resolve():
        raise UserError(f"--out is the model's own folder {model}: choose another.")
    merged, processor = load_model(model), load_processor(model)
    if merged.config.lora is None:
        raise UserError(f"The model in {model} has no LoRA layers: it is a plain one already.")
    merge(merged)
    with whole_folder(out) as unfinished:
        merged.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    return out


def command(args: argparse.Namespace) -> Path:
    """`semhitok merge-lora`."""
    return merge_lora(args.model, args.out)
