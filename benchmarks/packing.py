"""Packed sequences beside padded batches, on documents as long as those of LLaVA-1.5's mixture.

All ways train on the same documents, forward and backward, with one small model. `padded` takes
`--batch` documents in the order of the data and pads them to the longest (plain causal SDPA, and
no mask, since padding comes last); `groups` sorts windows of 16 such batches by length first;
`packed` fills sequences of `--max-seq-length` by best fit and attends document by document. What
counts is useful tokens a second: those of documents, not of padding.

The numbers of documents of each source are those of the paper (Liu et al., arXiv 2310.03744, table
7). How many text tokens a document of it has is our estimate: the median of a lognormal and its
sigma. An image is 256 tokens, and 16 documents are a device's batch, as in the paper.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any

import torch
from torch import Tensor

from benchmarks import protocol
from mllm.data.documents import Document
from mllm.data.packing import pack, plan_sequences
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.modeling_unified import UnifiedModel

NUM_IMAGE_TOKENS = 256
TEXT_VOCABULARY, NUM_CODES = 1000, 64 * 4
WINDOW = 16  # batches


@dataclass
class Kind:
    """Documents of one source: how many in the mixture, and their text."""

    count: int
    median: int
    sigma: float
    has_image: bool = True


LLAVA = {
    "LLaVA instructions": Kind(158_000, 300, 0.5),
    "ShareGPT": Kind(40_000, 900, 0.7, has_image=False),
    "VQAv2": Kind(83_000, 120, 0.4),
    "GQA": Kind(72_000, 180, 0.4),
    "OKVQA": Kind(9_000, 60, 0.3),
    "OCR-VQA": Kind(80_000, 110, 0.3),
    "A-OKVQA": Kind(66_000, 90, 0.3),
    "TextCaps": Kind(22_000, 60, 0.3),
    "RefCOCO": Kind(48_000, 200, 0.5),
    "Visual Genome": Kind(86_000, 250, 0.4),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = protocol.make_parser(__doc__, "python -m benchmarks.packing --documents 64")
    add = parser.add_argument
    add("--documents", type=protocol.positive, default=64, help="(default: 64)")
    add("--batch", type=protocol.positive, default=16, help="padded together (default: 16)")
    add("--max-seq-length", type=protocol.positive, default=2048, help="(default: 2048)")
    add("--width", type=protocol.positive, default=128, help="hidden size (default: 128)")
    add("--layers", type=protocol.positive, default=4, help="(default: 4)")
    arguments = parser.parse_args(argv)
    device = protocol.start(arguments)
    model = make_model(arguments.width, arguments.layers, arguments.max_seq_length).to(device)
    documents = make_documents(arguments.documents, arguments.max_seq_length, arguments.seed)
    batches = {
        "padded": in_order(documents, arguments.batch),
        "groups": by_length(documents, arguments.batch, arguments.seed),
        "packed": packed(documents, arguments.max_seq_length),
    }
    useful = sum(map(len, documents))

    runs = {way: partial(train, model, batches[way], way, device) for way in batches}
    seconds = protocol.median_seconds(runs, arguments.repeats)
    speeds = {way: useful / value for way, value in seconds.items()}
    places = {way: sum(b["input_ids"].numel() for b in many) for way, many in batches.items()}
    rows = [
        {
            "way": way,
            "useful tokens/s": speeds[way],
            "s": seconds[way],
            "padding": 1 - useful / places[way],
            "forward passes": len(batches[way]),
        }
        for way in batches
    ]
    protocol.print_table(rows)
    protocol.print_result(
        "packing",
        speeds["packed"] / speeds["padded"],
        arguments,
        ratio_to_groups=speeds["packed"] / speeds["groups"],
        useful_tokens=useful,
        mean_length=useful / len(documents),
        rows=rows,
    )


def make_model(width: int, layers: int, context: int) -> UnifiedModel:
    """A small language model with a small image vocabulary, of random weights."""
    return UnifiedModel(
        UnifiedConfig(
            text_config={
                "model_type": "qwen2", "vocab_size": TEXT_VOCABULARY, "hidden_size": width,
                "intermediate_size": 3 * width, "num_hidden_layers": layers,
                "num_attention_heads": max(1, width // 32),
                "num_key_value_heads": max(1, width // 32), "max_position_embeddings": context,
            },
            image_tokenizer_config={
                "teacher_config": {
                    "model_type": "siglip_vision_model", "hidden_size": 32,
                    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "image_size": 16, "patch_size": 8, "vision_use_head": False,
                },
                "image_size": 16, "patch_size": 8, "num_semantic_codes": 64, "num_pixel_codes": 4,
                **{f"{part}_hidden_size": 32 for part in ("semantic", "pixel", "decoder")},
                **{f"{part}_attention_heads": 2 for part in ("semantic", "pixel", "decoder")},
                "enhance_decoder_hidden_size": 32, "enhance_decoder_attention_heads": 2,
            },
        )
    )  # fmt: skip


def make_documents(number: int, longest: int, seed: int) -> list[Document]:
    """Documents of the mixture: an image where the source has them, and text, half of it labels."""
    rng = random.Random(seed)
    kinds = list(LLAVA.values())
    documents = []
    for kind in rng.choices(kinds, [kind.count for kind in kinds], k=number):
        image = NUM_IMAGE_TOKENS if kind.has_image else 0
        text = round(rng.lognormvariate(log(kind.median), kind.sigma))
        text = max(8, min(text, longest - image))
        document = Document()
        codes = [TEXT_VOCABULARY + rng.randrange(NUM_CODES) for _ in range(image)]
        position = document.add(codes, 0)
        words = [rng.randrange(TEXT_VOCABULARY) for _ in range(text)]
        position = document.add(words[: text // 2], position)
        document.add(words[text // 2 :], position, 1.0 / (text - text // 2))
        documents.append(document)
    return documents


def in_order(documents: list[Document], batch: int) -> list[dict[str, Any]]:
    """Batches of documents, each padded to its longest."""
    starts = range(0, len(documents), batch)
    return [pack([[d] for d in documents[start : start + batch]], None, 0) for start in starts]


def by_length(documents: list[Document], batch: int, seed: int) -> list[dict[str, Any]]:
    """The same, of documents about as long as each other."""
    batches = []
    for start in range(0, len(documents), batch * WINDOW):
        window = sorted(documents[start : start + batch * WINDOW], key=len)
        batches += in_order(window, batch)
    random.Random(seed).shuffle(batches)
    return batches


def packed(documents: list[Document], max_seq_length: int) -> list[dict[str, Any]]:
    """Sequences of several documents, one a forward pass."""
    plan = plan_sequences(map(len, documents), max_seq_length)
    return [pack([[documents[n] for n in numbers]], max_seq_length, 0) for numbers in plan]


def train(
    model: UnifiedModel, batches: list[dict[str, Any]], way: str, device: torch.device
) -> None:
    """One pass, forward and backward."""
    model.zero_grad(set_to_none=True)
    for batch in batches:
        inputs: dict[str, Any] = {
            name: value.to(device)
            for name, value in batch.items()
            if way == "packed" or (isinstance(value, Tensor) and name != "position_ids")
        }
        model(**inputs).loss.backward()


if __name__ == "__main__":
    main()
