"""What a training run of the language model will take, before anything is rented or downloaded.

    semhitok plan --config configs/mllm/qwen2.5-7b-instruct/mllm.yaml --gpus 8 --gpu-memory 80G

Works from configs: the model is built on the meta device. Estimates assume the worst row, in which
every token is a label of the larger head, and leave a tenth of the memory to the driver, the
allocator's gaps and the kernels' workspace.
"""

import argparse
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from mllm.model.loss import CHUNK_SCORES
from mllm.model.modeling_unified import UnifiedModel
from mllm.phase.deepspeed_config import zero_of
from mllm.phase.parameter_groups import ParameterGroup
from mllm.phase.settings import InitConfig, LoRAConfig, MLLMPhaseConfig, load_phase
from mllm.planning.activations import Activations, activations
from mllm.planning.memory import States, flops_of_a_row, loss_bytes, states
from mllm.planning.model import in_four_bits, optimizer_groups, parts, planned_model
from mllm.planning.text import print_plan
from runtime.config import load_config
from runtime.errors import UserError
from runtime.files import write_json

USABLE = 0.9  # of the memory; ours


@dataclass
class Placement:
    """One way to spread the run over its ranks.

    Attributes:
        stage: of ZeRO; 0 is plain data parallel.
        offload: the optimiser lives in the host's memory.
        chosen: the config asks for this one.
        states: bytes on a rank that do not grow with the micro-batch.
        micro_batch_size: the config's, else the largest that divides the rows of a rank; 0 where it
            does not fit.
        accumulation: micro-batches of a step.
        peak: bytes on the device at that micro-batch, or at the smallest where none fits.
    """

    stage: int
    offload: bool
    chosen: bool
    states: States
    micro_batch_size: int
    accumulation: int
    peak: int


@dataclass
class Plan:
    """A run in numbers. Bytes are of one rank, FLOPs of all.

    Attributes:
        lora: of the phase.
        parameters: numbers by part.
        rates: learning rate of each part of the model that trains.
        groups: of the optimiser.
        activations: bytes of one row.
        loss: bytes of one row.
        row_bytes: bytes that one more row of the micro-batch takes.
        tokens_per_step: padding included.
        flops_per_step: forward and backward.
        placements: every stage, with and without offload where there is a choice.
    """

    num_gpus: int
    gpu_memory: int
    bf16: bool
    gradient_checkpointing: bool
    row_length: int
    global_batch_size: int
    lora: LoRAConfig | None
    parameters: dict[str, int]
    rates: dict[str, float]
    groups: list[ParameterGroup]
    activations: Activations
    loss: int
    row_bytes: int
    tokens_per_step: int
    flops_per_step: int
    placements: list[Placement]


def make_plan(
    config: MLLMPhaseConfig, init: InitConfig | None, num_gpus: int, gpu_memory: int
) -> Plan:
    """Size a run.

    Args:
        config: of the training phase.
        init: settings of `init-mllm`, for a model that is not there yet.
        num_gpus: ranks.
        gpu_memory: bytes of each.

    Raises:
        UserError: if the model is not known, or the batch cannot be shared among the ranks.
    """
    if config.global_batch_size % num_gpus:
        raise UserError(
            f"global_batch_size {config.global_batch_size} is not a multiple of {num_gpus} GPUs: "
            f"change one of them."
        )
    model = planned_model(config, init)
    groups = optimizer_groups(model, config)
    small = in_four_bits(model, config)
    four_bits, is_small = [p.numel() for p in small], {id(p) for p in small}
    frozen = [
        p.numel() for p in model.parameters() if not p.requires_grad and id(p) not in is_small
    ]
    kept = activations(model, config.row_length, torch.bfloat16 if config.bf16 else torch.float32)
    text = model.config.text_config
    rows = max(text.vocab_size, model.image_head.rows.out_features)
    # A chunk for each row of the micro-batch: more than is ever held at once.
    num_scored = min(config.row_length, max(1, CHUNK_SCORES // rows))
    loss = loss_bytes(num_scored, rows, text.hidden_size, config.bf16)
    layers = kept.checkpointed if config.gradient_checkpointing else kept.layers
    row_bytes = layers + kept.mask + loss
    zero = zero_of(config)
    chosen = (zero.stage, zero.offload == "cpu")
    # Muon needs whole matrices, so it trains by plain data parallel alone; and what is packed into
    # 4 bits ZeRO-3 does not cut up.
    stages = (0,) if config.optimizer == "muon" else (0, 1, 2) if small else (0, 1, 2, 3)
    ways = [
        (stage, offload) for stage in stages for offload in (False, True) if stage or not offload
    ]
    share, given = config.global_batch_size // num_gpus, config.micro_batch_size
    if given is not None and share % given:
        raise UserError(
            f"global_batch_size {config.global_batch_size} is not a multiple of micro_batch_size "
            f"{given} × {num_gpus} GPUs: change one of them."
        )
    sizes = [given or n for n in range(1, share + 1) if share % n == 0]
    placements = []
    for stage, offload in ways:
        held = states(groups, frozen, stage, num_gpus, config.bf16, offload, four_bits)
        free = USABLE * gpu_memory - held.device
        micro = max((n for n in sizes if n * row_bytes <= free), default=0)
        placements.append(
            Placement(
                stage=stage,
                offload=offload,
                chosen=(stage, offload) == chosen,
                states=held,
                micro_batch_size=micro,
                accumulation=share // micro if micro else 0,
                peak=held.device + (micro or sizes[0]) * row_bytes,
            )
        )
    return Plan(
        num_gpus=num_gpus,
        gpu_memory=gpu_memory,
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        row_length=config.row_length,
        global_batch_size=config.global_batch_size,
        lora=config.lora,
        parameters=parts(model),
        rates={
            part: config.learning_rate * rate for part, rate in vars(config.rates).items() if rate
        },
        groups=groups,
        activations=kept,
        loss=loss,
        row_bytes=row_bytes,
        tokens_per_step=config.global_batch_size * config.row_length,
        flops_per_step=config.global_batch_size * flops(model, config),
        placements=placements,
    )


def flops(model: UnifiedModel, config: MLLMPhaseConfig, recompute: bool | None = None) -> int:
    """FLOPs of one row, forward and backward; see `flops_of_a_row`.

    Args:
        model: on any device, its frozen parts frozen.
        config: of the training phase.
        recompute: count what activation checkpointing computes again; by default if it is on.
    """
    text = model.config.text_config
    numbers = {True: 0, False: 0}
    for parameter in model.language_model.get_decoder().layers.parameters():
        shape = _whole_shape(parameter)
        if len(shape) > 1:
            numbers[parameter.requires_grad] += prod(shape)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    text_head, image_head = model.get_output_embeddings(), model.image_head.rows
    larger = text_head if text.vocab_size >= image_head.out_features else image_head
    return flops_of_a_row(
        numbers[True],
        numbers[False],
        prod(_whole_shape(larger.weight)),
        text.num_hidden_layers,
        text.num_attention_heads * head_dim,
        config.row_length,
        config.gradient_checkpointing if recompute is None else recompute,
        not larger.weight.requires_grad,
    )


def _whole_shape(parameter: Any) -> tuple[int, ...]:
    """Of what ZeRO-3 has cut up, or bitsandbytes packed, as it was before."""
    if hasattr(parameter, "ds_shape"):
        return tuple(parameter.ds_shape)
    packed = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if packed is None else packed.shape)


def micro_batch_that_fits(config: MLLMPhaseConfig, num_ranks: int) -> int:
    """The largest micro-batch for the memory of this GPU.

    Raises:
        UserError: if not even one row fits.
    """
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    plan = make_plan(config, None, num_ranks, memory)
    (chosen,) = [placement for placement in plan.placements if placement.chosen]
    if not chosen.micro_batch_size:
        raise UserError(
            f"One row of {config.row_length} tokens needs {chosen.peak / 1e9:.0f} GB of the "
            f"{memory / 1e9:.0f} GB here: see `semhitok plan`, or give micro_batch_size to try it."
        )
    return chosen.micro_batch_size


def _as_json(plan: Plan) -> dict[str, Any]:
    values = {name: getattr(plan, name) for name in Plan.__dataclass_fields__}
    values["activations"] = asdict(plan.activations)
    values["lora"] = None if plan.lora is None else asdict(plan.lora)
    values["groups"] = [
        {
            "rule": group.rule,
            "decays": group.decays,
            "parts": group.parts,
            "rate": group.rate,
            "num_parameters": group.num_parameters,
            "shapes": {
                name: list(parameter.shape)
                for name, parameter in zip(group.names, group.parameters, strict=True)
            },
        }
        for group in plan.groups
    ]
    values["placements"] = [
        asdict(p) | {"device_bytes": p.states.device, "fits": p.micro_batch_size > 0}
        for p in plan.placements
    ]
    return values


def read_init(config_file: Path, init_file: Path | None = None) -> InitConfig | None:
    """Settings of `init-mllm`: those given, else those beside the training config, if any."""
    beside = config_file.with_name("init_mllm.yaml")
    init_file = init_file or (beside if beside.is_file() else None)
    return None if init_file is None else load_config(InitConfig, init_file)


def command(args: argparse.Namespace) -> Path | None:
    """`semhitok plan`."""
    config = load_phase(args.config, args.overrides)
    init = read_init(args.config, args.init)
    plan = make_plan(config, init, args.gpus, args.gpu_memory)
    print_plan(plan)
    return write_json(args.json, _as_json(plan)) if args.json is not None else None
