"""The hierarchical look-up beside a flat search over all K·M codes.

For every patch the hierarchy compares with K semantic codes and then with the M codes of one
sub-codebook. The alternatives search one codebook of K·M codes: `whole` makes all scores at once,
as the peers' code does, and `chunked` in the same bounded chunks as ours. The speed ratio is
against the faster of the two, the memory ratio against `whole`; the table has both memories.
"""

import argparse
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import protocol
from tokenizer.model.codebook import GroupedCodebook

# K × M: both published readings of 196,608, and others of as many and of fewer codes.
SPLITS = ("16384x12", "24576x8", "8192x24", "49152x4", "4096x12", "1024x12")
MB = 1e6


def split(text: str) -> tuple[int, int]:
    """`KxM` as two numbers."""
    found = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)", text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"must read like 16384x12, not {text!r}")
    return int(found[1]), int(found[2])


def main(argv: Sequence[str] | None = None) -> None:
    parser = protocol.make_parser(__doc__, "python -m benchmarks.lookup --splits 16384x12")
    add = parser.add_argument
    what = f"codes; the first gives the closing line (default: {' '.join(SPLITS)})"
    splits = [split(text) for text in SPLITS]
    add("--splits", nargs="+", type=split, default=splits, metavar="KxM", help=what)
    add("--code-dim", type=protocol.positive, default=32, help="D (default: 32)")
    add("--batch-size", type=protocol.positive, default=8, help="images (default: 8)")
    add("--num-patches", type=protocol.positive, default=256, help="per image (default: 256)")
    arguments = parser.parse_args(argv)
    device = protocol.start(arguments)
    rows = [measure(k, m, arguments, device) for k, m in arguments.splits]
    protocol.print_table(rows)
    first = rows[0]
    protocol.print_result(
        "lookup",
        first["faster"],
        arguments,
        memory_ratio=first["less memory"],
        memory_ratio_chunked=first["chunked MB"] / first["ours MB"],
        num_vectors=arguments.batch_size * arguments.num_patches,
        rows=rows,
    )


def measure(
    num_semantic: int, num_pixel: int, arguments: argparse.Namespace, device: torch.device
) -> dict:
    """One row of the table: milliseconds and megabytes of the three ways."""
    num_vectors, dim = arguments.batch_size * arguments.num_patches, arguments.code_dim
    semantic = GroupedCodebook(1, num_semantic, dim).to(device)
    pixel = GroupedCodebook(num_semantic, num_pixel, dim).to(device)
    flat = GroupedCodebook(1, num_semantic * num_pixel, dim).to(device)
    vectors = semantic.normalize(torch.randn(2, num_vectors, dim, device=device))
    calls = {
        "ours": lambda: hierarchical(semantic, pixel, vectors[0], vectors[1]),
        "whole": lambda: whole(flat, vectors[0]),
        "chunked": lambda: flat.nearest(vectors[0]),
    }
    seconds = protocol.median_seconds(calls, arguments.repeats)
    peaks = {name: protocol.peak_bytes(call, device) for name, call in calls.items()}
    row: dict = {"K": num_semantic, "M": num_pixel, "codes": num_semantic * num_pixel}
    row |= {f"{name} ms": value * 1e3 for name, value in seconds.items()}
    row["faster"] = min(seconds["whole"], seconds["chunked"]) / seconds["ours"]
    row |= {f"{name} MB": value / MB for name, value in peaks.items()}
    row["less memory"] = peaks["whole"] / peaks["ours"]
    return row


def hierarchical(
    semantic: GroupedCodebook, pixel: GroupedCodebook, first: Tensor, second: Tensor
) -> Tensor:
    """(n,) flat image codes of (n, D) semantic and pixel vectors: K + M distances each."""
    groups = semantic.nearest(first)
    return groups * pixel.codes.shape[1] + pixel.nearest(second, groups)


@torch.no_grad()
def whole(codebook: GroupedCodebook, vectors: Tensor) -> Tensor:
    """(n,) nearest of all codes, with every score in memory at once."""
    return codebook.scores(vectors, codebook.normalize(codebook.codes[0])).argmax(-1)


if __name__ == "__main__":
    main()
