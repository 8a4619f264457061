"""LoRA: small trained matrices beside the language model's frozen ones, merged by `merge-lora`.

    semhitok train mllm --config FILE lora.rank=16
    semhitok merge-lora --model runs/smollm2-135m/mllm/model --out runs/merged

PEFT makes the layers. What is new to the language model trains whole: image adapter, image head,
and the tokens around an image in both the embedding and the head, tied or not. PEFT's own
`trainable_token_indices` writes those rows into a copy of the whole matrix at every call, and under
ZeRO-3 needs a GPU; here they are looked up beside the matrix.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


class NewTokens(nn.Module):
    """Trained rows of a few tokens, used in place of the frozen ones of embedding and head.

    `tied` says that the head scores with the very rows of the embedding.
    """

    def __init__(self, token_ids: list[int], width: int, tied: bool):
        super().__init__()
        self.token_ids = list(token_ids)
        self.read = nn.Parameter(torch.zeros(len(token_ids), width))
        self.write = None if tied else nn.Parameter(torch.zeros(len(token_ids), width))

    @property
    def written(self) -> Tensor:
        """(tokens, D) rows that the head scores with."""
        return self.read if self.write is None else self.write

    @torch.no_grad()
    def copy_from(self, embedding: nn.Module, head: nn.Module) -> None:
        """Start from the present rows; under ZeRO-3 every rank gathers them."""
        for rows, module in ((self.read, embedding), (self.write, head)):
            if rows is not None:
                weight = module.get_parameter("weight")
                with whole_parameters([weight]):
                    rows.copy_(weight[self.token_ids])

    @torch.no_grad()
    def copy_to(self, embedding: nn.Module, head: nn.Module) -> None:
        """Write the rows into the matrices."""
        for rows, module in ((self.read, embedding), (self.write, head)):
            if rows is not None:
                weight = module.get_parameter("weight")
                weight[self.token_ids] = rows.to(weight.dtype)


# Functions, not closures: a deep copy of a model must look up its own rows, not the original's.
def _embed_new(rows: NewTokens, embedding: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    scale = getattr(embedding, "embed_scale", 1.0)  # of Gemma
    for row, token_id in zip(rows.read, rows.token_ids, strict=True):
        here = (inputs[0] == token_id).unsqueeze(-1)
        output = torch.where(here, (row * scale).to(output.dtype), output)
    return output


def _score_new(rows: NewTokens, head: nn.Module, inputs: tuple, output: Any) -> Any:
    if not isinstance(output, Tensor):  # a loss, which has replaced the scores itself
        return output
    token_ids = torch.tensor(rows.token_ids, device=output.device)
    bias = getattr(head, "bias", None)
    scores = nn.functional.linear(
        inputs[0], rows.written.to(inputs[0].dtype), None if bias is None else bias[token_ids]
    )
    # In place, since the scores are the largest tensor there is.
    return output.index_copy_(-1, token_ids, scores.to(output.dtype))


def whole_parameters(parameters: list[nn.Parameter]) -> AbstractContextManager:
    """Let every rank hold whole parameters, which ZeRO-3 may have cut up."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


def add_lora(model: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Put LoRA layers into a model, in place; they change nothing until they are trained.

    Args:
        model: a plain one.
        settings: `rank`, `alpha`, `dropout`, `targets` (last names of linear maps, [] for all of
            the decoder) and `token_ids`, whose rows train. The model's config keeps them, so that
            its folder loads with the same layers.

    Raises:
        ValueError: if a target does not exist, or is the embedding or the head.
    """
    from peft import LoraConfig, inject_adapter_in_model

    language_model = model.language_model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    maps = {
        name.rpartition(".")[2]
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head  # GPT-2 has the second
    }
    wrong = sorted(set(settings["targets"]) - maps)
    if wrong:
        raise ValueError(
            f"lora.targets names {wrong[0]!r}, which is no linear map of the decoder's layers; "
            f"choose among {', '.join(sorted(maps))}"
        )
    lora = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=list(settings["targets"]) or "all-linear",
    )
    inject_adapter_in_model(lora, language_model)
    for name, parameter in language_model.named_parameters():
        if "lora_" in name:  # else bfloat16 on a 4-bit base, which would round small steps off
            parameter.data = parameter.data.float()
    tied = model.config.text_config.tie_word_embeddings
    model.new_rows = NewTokens(settings["token_ids"], model.config.text_config.hidden_size, tied)
    if embedding.weight.device.type != "meta":
        model.new_rows.copy_from(embedding, head)
    # Both use these rows for their tokens; their weights do not change.
    embedding.register_forward_hook(partial(_embed_new, model.new_rows))
    head.register_forward_hook(partial(_score_new, model.new_rows))
    # A chunked loss reads a plain layer's weight, and this one is more than its weight.
    head.replace_scores = partial(_score_new, model.new_rows)
    model.config.lora = dict(settings)
    freeze(model)


def freeze(model: PreTrainedModel) -> None:
    """Leave trainable what LoRA trains: its layers, and whatever is new to the language model."""
    for name, parameter in model.language_model.named_parameters():
        parameter.requires_grad_("lora_" in name)


@torch.no_grad()
def merge(model: PreTrainedModel) -> None:
    """Fold the LoRA layers and the new rows into the plain matrices, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    language_model = model.language_model
    layers = {n: m for n, m in language_model.named_modules() if isinstance(m, BaseTunerLayer)}
    for name, layer in layers.items():
        layer.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(language_model.get_submodule(parent), last, layer.get_base_layer())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    model.new_rows.copy_to(embedding, head)
    for module, hook in ((embedding, _embed_new), (head, _score_new)):
        for key, registered in list(module._forward_hooks.items()):
            if getattr(registered, "func", None) is hook:
                del module._forward_hooks[key]
    del model.new_rows, head.replace_scores
    model.config.lora = None
