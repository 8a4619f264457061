"""Fold the LoRA layers of a trained model into its plain matrices.

semhitok merge-lora --model runs/smollm2-135m/mllm/model --out runs/merged
"""

from pathlib import Path

from mllm.model.lora import merge
from mllm.saved.load import load_model, load_processor
from mllm.saved.settings import MergeSettings
from runtime.errors import UserError
from tokenizer.saved.model_folder import whole_folder


def merge_lora(settings: MergeSettings) -> Path:
    """Write the plain model of a LoRA one; its logits are the same to rounding.

    Raises:
        UserError: if the folder holds no model, or one without LoRA layers.
    """
    folder, out = settings.model, settings.out
    if folder.resolve() == out.resolve():
        raise UserError(f"--out is the model's own folder {folder}; choose another")
    model, processor = load_model(folder), load_processor(folder)
    if model.config.lora is None:
        raise UserError(f"the model in {folder} has no LoRA layers; it is a plain one already")
    merge(model)
    with whole_folder(out) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    return out
