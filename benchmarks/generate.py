"""Drawing beside transformers' own `generate`: the same weights, prompt and sampler.

The alternative is what a user of transformers would write: the unified model exported as a plain
causal LM (K·M rows behind the text rows), `guidance_scale` with `negative_prompt_ids`, and a
`prefix_allowed_tokens_fn` that allows the image ids. Ours is `DrawingEngine`. Random weights: what
is drawn costs the same. `times` compares equal weights, so ours has the flat head there; the
last two columns have our hierarchical head, which a plain LM has no place for.
Where the alternative does not finish in `--budget` seconds, its rate is that of the tokens it drew
till then, at the shorter contexts, which is in its favour. `compiled` is ours with the pass
compiled (`semhitok generate --compile`), after its compilation, whose seconds stand beside it.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks import protocol
from benchmarks.generate_model import SIZES, make_model
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.model.heads import FlatHead
from mllm.model.modeling_unified import UnifiedModel
from mllm.model.sampler import Sampler

PROMPT_LENGTH = 24
NEGATIVE_LENGTH = 6
SHORT = 16  # tokens where a whole image would only take longer


def main(argv: Sequence[str] | None = None) -> None:
    example = "python -m benchmarks.generate --size smollm2-135m --batch-sizes 1 8"
    parser = protocol.make_parser(__doc__, example, repeats=1)
    add = parser.add_argument
    add("--size", choices=sorted(SIZES), default="quickstart", help="(default: quickstart)")
    add("--tokens", type=protocol.positive, default=256, help="of an image (default: 256)")
    add("--batch-sizes", type=protocol.positive, nargs="+", default=[1, 8], help="(default: 1 8)")
    add("--scale", type=float, default=3.0, help="of guidance (default: 3)")
    add("--budget", type=float, default=30.0, help="seconds of one run (default: 30)")
    add("--no-compiled", action="store_true", help="leave out the compiled pass")
    add("--no-flat-vs-hierarchical", action="store_true", help="leave out the 196,608 codes")
    arguments = parser.parse_args(argv)
    device = protocol.start(arguments)
    flat = make_model(arguments.size, "flat", arguments.tokens).to(device)
    plain = plain_model(flat)
    other = make_model(arguments.size, "hierarchical", arguments.tokens).to(device)
    sizes = arguments.batch_sizes
    rows = [_against(plain, flat, other, size, arguments) for size in sizes]
    del plain, other, flat
    heads = [] if arguments.no_flat_vs_hierarchical else _heads(arguments, device)
    for table in (rows, heads):
        if table:
            protocol.print_table(table)
            print()
    protocol.print_result(
        "generate",
        max(rows[0]["times"], rows[0].get("times compiled", 0)),
        arguments,
        ratios={str(row["batch"]): row["times"] for row in rows},
        compiled={str(row["batch"]): row.get("times compiled") for row in rows},
        guidance_scale=arguments.scale,
        rows=rows,
        heads=heads,
    )


@torch.no_grad()
def plain_model(model: UnifiedModel) -> Any:
    """The unified model as a plain causal LM, in memory: `mllm.saved.export` without the folder."""
    plain: Any = copy.deepcopy(model.language_model)
    codes = torch.arange(model.vocabulary.num_image_codes, device=model.device)
    image_rows = [model.adapter(part, model.image_tokenizer, part) for part in codes.split(8192)]
    rows = torch.cat([plain.get_input_embeddings().weight, *image_rows])
    plain.set_input_embeddings(nn.Embedding.from_pretrained(rows))
    head: Any = plain.get_output_embeddings()
    assert isinstance(model.image_head, FlatHead)
    head.weight = nn.Parameter(torch.cat([head.weight, model.image_head.rows.weight]))
    plain.config.vocab_size = model.vocabulary.size
    plain.generation_config.pad_token_id = plain.generation_config.eos_token_id = None
    return plain.eval()


class _Clock(StoppingCriteria):
    """Stamps each token, and stops when the time is over."""

    def __init__(self, budget: float):
        self.budget, self.started = budget, time.perf_counter()
        self.tokens, self.seconds = 0, 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.tokens += 1
        self.seconds = time.perf_counter() - self.started
        over = self.seconds > self.budget
        return torch.full((len(input_ids),), over, device=input_ids.device)


def alternative(
    plain: Any, jobs: list[ImageJob], sampler: Sampler, num_tokens: int, offset: int, budget: float
) -> tuple[Tensor, _Clock]:
    """(B, drawn) image ids by transformers' own loop."""
    prompts = torch.tensor([job.prompt_ids for job in jobs], device=plain.device)
    allowed = list(range(offset, plain.config.vocab_size))
    clock = _Clock(budget)
    options: dict[str, Any] = {"do_sample": False}
    if sampler.temperature > 0:
        options = {"do_sample": True, "temperature": sampler.temperature, "top_k": 0, "top_p": 1.0}
    if sampler.guided:
        negatives = torch.tensor([job.negative_ids for job in jobs], device=plain.device)
        options |= {
            "guidance_scale": sampler.guidance_scale,
            "negative_prompt_ids": negatives,
            "negative_prompt_attention_mask": torch.ones_like(negatives),
        }
    drawn = plain.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=num_tokens,
        prefix_allowed_tokens_fn=lambda batch, ids: allowed,
        stopping_criteria=StoppingCriteriaList([clock]),
        **options,
    )
    return drawn[:, prompts.shape[1] :], clock


def make_jobs(model: UnifiedModel, count: int) -> list[ImageJob]:
    """Prompts of random text, each its own."""
    generator = torch.Generator().manual_seed(0)
    high = model.vocabulary.offset
    words = torch.randint(4, high, (count, PROMPT_LENGTH), generator=generator).tolist()
    negative = tuple(torch.randint(4, high, (NEGATIVE_LENGTH,), generator=generator).tolist())
    return [ImageJob(tuple(prompt), negative, seed) for seed, prompt in enumerate(words)]


def _against(
    plain: Any, model: UnifiedModel, other: UnifiedModel, size: int, arguments: argparse.Namespace
) -> dict:
    """One row: tokens/s of both ways, and of ours with the hierarchical head, in turn."""
    sampler = Sampler(guidance_scale=arguments.scale)
    jobs = make_jobs(model, size)
    engines = {"ours": DrawingEngine(model, sampler, size)}
    if not arguments.no_compiled:
        engines["compiled"] = DrawingEngine(model, sampler, size, compile_step=True)
    engines["hierarchical"] = DrawingEngine(other, sampler, size)
    num_tokens, offset = arguments.tokens, model.vocabulary.offset
    alternative(plain, jobs, sampler, num_tokens, offset, min(3.0, arguments.budget))  # warm-up
    first = {name: _seconds_of(engine, jobs) for name, engine in engines.items()}
    rates: dict[str, list[float]] = {name: [] for name in ("transformers", *engines)}
    drawn = num_tokens
    for _ in range(arguments.repeats):
        ids, clock = alternative(plain, jobs, sampler, num_tokens, offset, arguments.budget)
        assert bool((ids >= offset).all())
        drawn = min(drawn, clock.tokens)
        rates["transformers"].append(clock.tokens * size / clock.seconds)
        for name, engine in engines.items():
            rates[name].append(num_tokens * size / _seconds_of(engine, jobs))
    middle = protocol.medians(rates)
    times = {name: rate / middle["transformers"] for name, rate in middle.items()}
    row = {
        "batch": size,
        "transformers tokens/s": middle["transformers"],
        "of tokens": drawn,
        "ours tokens/s": middle["ours"],
        "times": times["ours"],
    }
    if "compiled" in middle:
        drawing = num_tokens * size / middle["compiled"]
        row |= {
            "compiled tokens/s": middle["compiled"],
            "times compiled": times["compiled"],
            "compilation s": max(0.0, first["compiled"] - drawing),
        }
    return row | {
        "hierarchical head tokens/s": middle["hierarchical"],
        "times hierarchical": times["hierarchical"],
    }


def _seconds_of(engine: DrawingEngine, jobs: list[ImageJob]) -> float:
    engine._prefixes.clear()
    protocol._wait_for_gpu()
    started = time.perf_counter()
    codes = list(engine.draw(jobs))
    seconds = time.perf_counter() - started
    assert all(len(image) == engine.num_positions for _, image in codes)
    return seconds


def _heads(arguments: argparse.Namespace, device: torch.device) -> list[dict]:
    """Flat and hierarchical head on the same language model, 196,608 codes."""
    num_tokens, batch_size = min(arguments.tokens, SHORT), max(arguments.batch_sizes)
    runs: dict[str, Callable[[], Any]] = {}
    for head in ("flat", "hierarchical"):
        model = make_model(arguments.size, head, num_tokens, num_codes=(16_384, 12)).to(device)
        engine = DrawingEngine(model, Sampler(guidance_scale=arguments.scale), batch_size)
        runs[head] = partial(_seconds_of, engine, make_jobs(model, batch_size))
    seconds = protocol.median_seconds(runs, arguments.repeats)
    return [
        {
            "head of 196,608 codes": head,
            "batch": batch_size,
            "scores a token": 196_608 if head == "flat" else 16_384 + 12,
            "tokens/s": num_tokens * batch_size / seconds[head],
            "times faster than flat": seconds["flat"] / seconds[head],
        }
        for head in runs
    ]


if __name__ == "__main__":
    main()
