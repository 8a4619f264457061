"""What one tokenizer of an ablation is measured by: reconstruction, usage, and linear probes.

A probe reads the mean over an image's positions of its code vectors, semantic alone or semantic
and pixel side by side: what the codes say wherever they stand. It is fitted on the training split
and scored on the test split.

Shapes: n images, N image positions, D width of the code vectors, C classes.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipelines.loading.dataset import PreparedDataset
from eval.reconstruction.settings import ReconstructionSettings
from eval.reconstruction.task import evaluate
from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.json_lines import write_rows
from runtime.progress import Progress
from tokenizer.saved.model_folder import load_tokenizer

BATCH_SIZE = 64
"""Images at a time."""
L2 = 1e-3  # on the weights, beside the mean loss; small, since n is much above D


def measure(
    tokenizer_dir: Path | str,
    train_dir: Path | str,
    test_dir: Path | str,
    out_dir: Path | str,
    probes: Mapping[str, Sequence[str]],
) -> None:
    """Measure a tokenizer and save `summary.json`, `probe_predictions.jsonl`, `reconstruction/`.

    Args:
        tokenizer_dir: a saved SemHiTok model.
        train_dir, test_dir: prepared data sets with captions.
        out_dir: where the results go; made if missing.
        probes: name of a property → the words of a caption that are its classes.

    Raises:
        UserError: if a property has no labelled image to learn from or to be scored on.
    """
    out_dir = Path(out_dir)
    train, test = (PreparedDataset(path, images_only=True) for path in (train_dir, test_dir))
    folder = out_dir / "reconstruction"
    settings = ReconstructionSettings(tokenizer=Path(tokenizer_dir), data=str(test_dir), out=folder)
    reconstruction = read_json(evaluate(settings) / "summary.json")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_tokenizer(tokenizer_dir).to(device).eval()
    features = [_mean_code_vectors(model, split) for split in (train, test)]
    width = model.config.semantic_code_dim
    results, predictions = {}, []
    for name, words in probes.items():
        labels = [_labels(split, words, name) for split in (train, test)]
        for kind, columns in (("semantic", slice(0, width)), ("joint", slice(None))):
            views = [split[:, columns] for split in features]
            result, rows = _probe(views, labels, words)
            results[f"{name}.{kind}"] = result
            predictions += [
                {"record_id": test.ids[index], "probe": name, "features": kind} | row
                for index, row in rows
            ]
    codebook = reconstruction["codebook"]
    summary = {
        "psnr": reconstruction["psnr"],
        "ssim": reconstruction["ssim"],
        # Of K·M: one meaning for every structure.
        "usage": codebook["pixel_usage"],
        "probes": results,
        "num_semantic_codes": codebook["num_semantic_codes"],
        "num_pixel_codes": codebook["num_pixel_codes"],
        "code_structure": model.config.code_structure,
        "decoder": reconstruction["decoder"],
        "tokenizer": str(tokenizer_dir),
        "train_fingerprint": train.fingerprint,
        "test_fingerprint": test.fingerprint,
    }
    write_rows(out_dir / "probe_predictions.jsonl", predictions)
    write_json(out_dir / "summary.json", summary)  # last: its presence says the rest is complete


def _probe(
    features: Sequence[Tensor], labels: Sequence[Tensor], words: Sequence[str]
) -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]:
    """Fit on the first split and score on the second; labels of -1 are left out."""
    (train, test), (train_labels, test_labels) = features, labels
    known, scored = train_labels >= 0, test_labels >= 0
    probe = fit_probe(train[known], train_labels[known], len(words))
    predicted, truth = probe.predict(test[scored]), test_labels[scored]
    majority = torch.bincount(train_labels[known], minlength=len(words)).argmax()
    result = {
        "accuracy": float((predicted == truth).double().mean()),
        "majority": float((truth == majority).double().mean()),
        "num_train": int(known.sum()),
        "num_test": len(truth),
    }
    found = zip(scored.nonzero()[:, 0].tolist(), truth.tolist(), predicted.tolist(), strict=True)
    return result, [
        (index, {"label": words[wanted], "predicted": words[given]})
        for index, wanted, given in found
    ]


@torch.inference_mode()
def _mean_code_vectors(model: Any, dataset: Any) -> Tensor:
    """(n, D_semantic + D_pixel): each image's code vectors, averaged over its positions."""
    device, size = next(model.parameters()).device, model.config.image_size
    pooled = []
    with Progress(len(dataset), "features", "image") as progress:
        for start in range(0, len(dataset), BATCH_SIZE):
            indices = range(start, min(start + BATCH_SIZE, len(dataset)))
            images = torch.stack([dataset.image_tensor(index, size) for index in indices])
            vectors = model.code_vectors(model.encode(images.to(device)))
            pooled.append(vectors.mean(dim=1).cpu())
            progress.update(len(indices))
    return torch.cat(pooled).clone()


def _labels(dataset: Any, words: Sequence[str], name: str) -> Tensor:
    """(n,) int64 classes by the captions; -1 where they leave it open."""
    found = [caption_label(record.captions, words) for record in dataset.texts()]
    if all(label is None for label in found):
        raise UserError(
            f"no caption of {dataset.path} names exactly one of the words of the probe {name!r} "
            f"({', '.join(words)}): list words that the captions use."
        )
    return torch.tensor([-1 if label is None else label for label in found])


class LinearProbe(NamedTuple):
    """A fitted classifier of standardised features.

    Attributes:
        mean, scale: (D,) of the features that it was fitted on.
        weight: (D, C).
        bias: (C,).
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """(n,) int64 classes of (n, D) features."""
        standardised = (features.double() - self.mean) / self.scale
        return (standardised @ self.weight + self.bias).argmax(-1)


def fit_probe(features: Tensor, labels: Tensor, num_classes: int, l2: float = L2) -> LinearProbe:
    """Multinomial logistic regression, to its one minimum, by L-BFGS from zeros.

    Nothing in it is random, and the loss is convex: equal input gives an equal classifier.

    Args:
        features: (n, D).
        labels: (n,) int64 in [0, C).
        num_classes: C.
        l2: weight of half the squared norm of the weights.
    """
    features = features.detach().double()
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 1e-8, scale, 1.0)  # a constant feature stays at zero
    standardised = (features - mean) / scale
    weight = torch.zeros(features.shape[1], num_classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=1000,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(standardised @ weight + bias, labels)
        value = value + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return LinearProbe(mean, scale, weight.detach(), bias.detach())


def caption_label(captions: Sequence[str], words: Sequence[str]) -> int | None:
    """The class of an image: the index of the one of `words` that its captions name, else None."""
    text = " ".join(captions)
    patterns = [rf"\b{re.escape(word)}\b" for word in words]
    named = [i for i, each in enumerate(patterns) if re.search(each, text, flags=re.IGNORECASE)]
    return named[0] if len(named) == 1 else None
