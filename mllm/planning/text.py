"""A plan as text: parameters, optimiser groups, shapes, and the table of ZeRO stages."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple

import torch

from mllm.phase.deepspeed_config import zero_of
from mllm.planning.model import LORA_LAYERS, NEW_TOKENS
from mllm.planning.plan import Plan, Sharding

PARTS = {  # names of `planning.model.parts` and of `LearningRateMultipliers`
    "language model layers": "layers",
    "embed_tokens": "embed_tokens",
    "lm_head": "embed_tokens",
    "image adapter": "image_adapter",
    "image head": "image_head",
    LORA_LAYERS: "layers",
    NEW_TOKENS: "embed_tokens",
}
OF_THE_LLM = ("language model layers", "embed_tokens", "lm_head")  # frozen beside LoRA layers
COLUMNS = (
    "ZeRO", "weights", "gradients", "master", "optimiser", "buffers", "on host",
    "micro-batch", "accumulate", "peak",
)  # fmt: skip


def print_plan(plan: Plan) -> None:
    """Print a plan; sizes are GB of 10⁹ bytes on one rank."""
    sections = (_run, _parts, _groups, _shapes, _sequence, _table)
    print("\n".join(line for section in sections for line in section(plan)))


def _run(plan: Plan) -> Iterator[str]:
    settings = plan.settings
    yield f"phase: {settings.phase or 'the only one'}"
    for source in settings.all_sources:
        yield f"source: {source.data}, codes {source.codes or 'none'}, weight {source.weight:g}"
    proportions = dict(settings.mixture.proportions).items()
    yield "proportions: " + ", ".join(f"{name} {value:g}" for name, value in proportions if value)
    zero = zero_of(settings)
    host = "" if zero.offload == "none" else f", optimiser on the {zero.offload}"
    by_zero = f"ZeRO-{zero.stage}{host} ({settings.deepspeed})"
    yield f"distribution: {'plain data parallel' if settings.deepspeed is None else by_zero}"


def _parts(plan: Plan) -> Iterator[str]:
    """A line for each part of the model: its parameters, and how it trains."""
    lora = plan.settings.lora
    if lora is not None:
        targets = ", ".join(lora.targets) or "all linear maps of the decoder"
        yield f"LoRA: rank {lora.rank}, alpha {lora.alpha:g}, on {targets}"
    yield "parameters"
    for name, count in plan.parameters.items():
        rate = plan.learning_rates.get(PARTS.get(name, ""))
        if lora is not None and name in OF_THE_LLM:
            rate = None
        trains = "frozen" if rate is None else f"learning rate {rate:g}"
        if plan.settings.in_4bit and name == "language model layers":
            trains += ", in 4 bits"
        yield f"  {name:28}{count:>18,}  {trains}"
    yield f"  {'in all':28}{sum(plan.parameters.values()):>18,}"


def _groups(plan: Plan) -> Iterator[str]:
    """The optimiser's groups with the shapes in them."""
    for group in plan.groups:
        decay = "decays" if group.decays else "no decay"
        factor = "" if group.multiplier == 1 else f", {group.multiplier:g} × the learning rate"
        yield f"optimiser group: {group.rule}, {decay}{factor}, {group.num_parameters:,} parameters"
        # Parameters are alike that differ in the number of their layer alone.
        names = (re.sub(r"\.\d+\.", ".*.", name) for name in group.names)
        shapes = (tuple(parameter.shape) for parameter in group.parameters)
        counts = Counter(zip(names, shapes, strict=True)).items()
        yield from (f"  {count:>4} × {name} {shape}" for (name, shape), count in counts)


@torch.no_grad()
def _shapes(plan: Plan) -> Iterator[str]:
    """Shapes that the decoder and the heads make of one micro-batch, on the meta device."""
    model, length = plan.model, plan.settings.max_seq_length
    text, image = model.config.text_config, model.config.image_tokenizer_config
    micro = plan.settings.micro_batch_size or 1
    embedded = torch.empty(micro, length, text.hidden_size, device="meta")
    hidden = model.language_model.get_decoder()(
        inputs_embeds=embedded,
        attention_mask=torch.ones(1, 1, length, length, dtype=torch.bool, device="meta"),
        position_ids=torch.empty(1, length, dtype=torch.long, device="meta"),
        use_cache=False,
    ).last_hidden_state
    one, codes = hidden[0, :1], torch.zeros(1, dtype=torch.long, device="meta")
    head = model.image_head
    shapes = {
        "embedded sequences": embedded.shape,
        "hidden states": hidden.shape,
        "text scores of a label": model.get_output_embeddings()(one).shape,
        "semantic scores of a label": head.semantic_scores(one).shape,
        "pixel scores of a label": head.pixel_scores(one, codes, model.image_tokenizer).shape,
    }
    yield "shapes of a micro-batch"
    yield from (f"  {name:28}{tuple(shape)!s:>24}" for name, shape in shapes.items())
    yield f"  {'text vocabulary':28}{text.vocab_size:>24,}"
    yield f"  {'image codes':28}{image.num_semantic_codes * image.num_pixel_codes:>24,}"


def _sequence(plan: Plan) -> Iterator[str]:
    settings, kept = plan.settings, plan.activations
    mark = {True: " *", False: ""}
    checkpoints = settings.gradient_checkpointing
    yield f"one sequence of {settings.max_seq_length:,} tokens"
    yield f"  activations               {_gb(kept.layers)}{mark[not checkpoints]}"
    yield f"  with checkpointing        {_gb(kept.checkpointed)}{mark[checkpoints]}"
    yield f"  attention mask            {_gb(kept.mask)}"
    yield f"  logits and loss           {_gb(plan.loss)}"
    packing = "packed" if settings.packing else "a document a sequence"
    yield (
        f"a step: {settings.global_batch_size:,} sequences, attention {settings.attention}, "
        f"{packing}, {plan.tokens_per_step:,} tokens, {plan.flops_per_step:.3g} FLOPs"
    )


def _table(plan: Plan) -> Iterator[str]:
    precision = "bfloat16" if plan.settings.bf16 else "float32"
    yield (
        f"each of {plan.num_gpus} GPUs with {_gb(plan.gpu_memory).strip()} GB, {precision}, sizes "
        f"in GB (* as the settings say)"
    )
    yield "  " + "".join(f"{name:>12}" for name in COLUMNS)
    for sharding in plan.shardings:
        yield "  " + "".join(f"{cell:>12}" for cell in _cells(sharding))


def _cells(sharding: Sharding) -> list[str]:
    mark, host = "* " if sharding.chosen else "", " + host" if sharding.offload else ""
    fits = sharding.micro_batch_size > 0
    return [
        f"{mark}{sharding.stage}{host}",
        *(_gb(size).strip() for size in astuple(sharding.states)),
        str(sharding.micro_batch_size) if fits else "too large",
        str(sharding.accumulation) if fits else "–",
        _gb(sharding.peak).strip(),
    ]


def _gb(size: int) -> str:
    return f"{size / 1e9:9.3g}" if size < 1e9 else f"{size / 1e9:9.1f}"
