"""The loss in chunks beside full logits, over a text and an image vocabulary.

Both compute the cross entropy of the same labels over both, forward and backward. `full` makes
every logit, as transformers' causal models do; `ours` is the training loss. `torch`
(`--with-torch`) is `linear_cross_entropy` in chunks of the same size, a loss for each label. Every
label has a weight, as in training. Memory is the peak beyond the parameters, the hidden states and
the gradients of both. The last row of the table continues the straight line through the two largest
sizes, and is not measured.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import protocol
from mllm.model import loss

MB = 1e6
WAYS = ("full", "ours")


def main(argv: Sequence[str] | None = None) -> None:
    # Two rounds of all three sizes take six minutes of one CPU thread.
    example = "python -m benchmarks.loss --tokens 256 512 1024"
    parser = protocol.make_parser(__doc__, example, repeats=2)
    add = parser.add_argument
    add("--text-vocabulary", type=protocol.positive, default=151_936, help="(default: 151936)")
    add("--image-vocabulary", type=protocol.positive, default=196_608, help="(default: 196608)")
    add("--width", type=protocol.positive, default=256, help="hidden size (default: 256)")
    add(
        "--tokens", type=protocol.positive, nargs="+", default=[256, 512, 1024], metavar="N",
        help="labels in a batch; full logits of 1024 hold 4.3 GB (default: 256 512 1024)",
    )  # fmt: skip
    add("--with-torch", action="store_true", help="also torch's own chunks, which take longer")
    add("--extrapolate", type=protocol.positive, default=8192, help="tokens (default: 8192)")
    arguments = parser.parse_args(argv)
    if len(set(arguments.tokens)) < 2:
        parser.error("--tokens needs at least two sizes, since a line goes through them")
    device = protocol.start(arguments)
    vocab_size = arguments.text_vocabulary + arguments.image_vocabulary
    head = nn.Linear(arguments.width, vocab_size, bias=False).to(device)
    ways = (*WAYS, "torch") if arguments.with_torch else WAYS
    rows = [measure(head, n, arguments.repeats, ways) for n in sorted(set(arguments.tokens))]
    further = extrapolate(rows[-2], rows[-1], arguments.extrapolate)
    protocol.print_table([*rows, further])
    protocol.print_result(
        "loss",
        rows[-1]["less memory"],
        arguments,
        time_ratio=rows[-1]["faster"],
        memory_ratio_extrapolated=further["less memory"],
        extrapolated_tokens=further["tokens"],
        vocab_size=vocab_size,
        chunk_scores=loss.CHUNK_SCORES,
        rows=rows,
    )


def measure(head: nn.Linear, num_tokens: int, repeats: int, ways: Sequence[str] = WAYS) -> dict:
    """One row of the table: seconds and megabytes of each way."""
    device = head.weight.device
    hidden = torch.randn(num_tokens, head.in_features, device=device, requires_grad=True)
    labels = torch.randint(head.out_features, (num_tokens,), device=device)
    weights = torch.rand(num_tokens, device=device)
    leaves = (hidden, head.weight)

    def step(total: Callable[..., Tensor]) -> None:
        clear()
        total(head, hidden, labels, weights).backward()

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    totals = {"full": full, "ours": ours, "torch": by_torch}
    calls = {name: partial(step, totals[name]) for name in ways}
    seconds = protocol.median_seconds(calls, repeats)
    gradients = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    peaks = {}
    for name, call in calls.items():
        clear()  # before the profiler starts, which would count it as memory won
        peaks[name] = protocol.peak_bytes(call, device) - gradients
    clear()
    return _row(num_tokens, seconds, {name: peak / MB for name, peak in peaks.items()})


def full(head: nn.Linear, hidden: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of losses by way of (n, V) logits."""
    return (F.cross_entropy(head(hidden), labels, reduction="none") * weights).sum()


def ours(head: nn.Linear, hidden: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The same as training computes it."""
    return loss.weighted_loss(head, head.out_features, hidden, labels, weights)[0]


def by_torch(head: nn.Linear, hidden: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The same by torch's own chunks (since 2.13)."""
    size = max(1, loss.CHUNK_SCORES // head.out_features)
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=size)
    losses = F.linear_cross_entropy(hidden, head.weight, labels, reduction="none", options=options)
    return (losses * weights).sum()


def extrapolate(smaller: dict, larger: dict, num_tokens: int) -> dict:
    """The row of more tokens on the line through two measured ones."""
    steps = (num_tokens - larger["tokens"]) / (larger["tokens"] - smaller["tokens"])

    def further(column: str) -> float:
        return larger[column] + steps * (larger[column] - smaller[column])

    ways = [column.removesuffix(" s") for column in larger if column.endswith(" s")]
    seconds = {name: further(f"{name} s") for name in ways}
    return _row(num_tokens, seconds, {name: further(f"{name} MB") for name in ways})


def _row(num_tokens: int, seconds: dict[str, float], megabytes: dict[str, float]) -> dict:
    row: dict = {"tokens": num_tokens}
    row |= {f"{name} s": value for name, value in seconds.items()}
    row["faster"] = seconds["full"] / seconds["ours"]
    row |= {f"{name} MB": value for name, value in megabytes.items()}
    row["less memory"] = megabytes["full"] / megabytes["ours"]
    return row


if __name__ == "__main__":
    main()
