"""How much of the two codebooks a data set uses.

Shapes: K semantic codes, M pixel codes in the sub-codebook of each semantic code.
"""

import numpy as np

MAP_COLUMNS = 128
"""Semantic codes side by side in a usage map."""
MAP_WIDTH = 512
"""Pixels of its width, about."""


def codebook_statistics(counts: np.ndarray) -> dict[str, float | int]:
    """Usage and perplexity of the semantic codes and of the pixel codes.

    Args:
        counts: (K, M), how often each image code occurred over the whole evaluation set; its row
            sums are the counts of the semantic codes.

    Returns:
        `semantic_usage`: fraction of the K semantic codes that occur.
        `pixel_usage`: fraction of all K·M pixel codes that occur.
        `pixel_usage_within_used`: the same over the sub-codebooks of those semantic codes that
            occur; the rest of the sub-codebooks never had a chance.
        `dead_sub_codebooks`: how many semantic codes occur at least M times and yet always with
            the same one of their M > 1 pixel codes; global usage hides them.
        `semantic_perplexity` in [1, K] and `pixel_perplexity` in [1, K·M]: the number of equally
            frequent codes with the same entropy.
        `pixel_perplexity_given_semantic` in [1, M]: the same for the pixel code once its semantic
            code is known, what the sub-codebook itself says.
        And the sizes: `num_semantic_codes`, `num_pixel_codes`, `num_positions`.

    Raises:
        ValueError: if no code was counted.
    """
    num_positions = int(counts.sum())
    if not num_positions:
        raise ValueError("No code was counted.")
    num_semantic, num_pixel = counts.shape
    semantic_counts = counts.sum(axis=1)
    used = semantic_counts > 0
    dead = (semantic_counts >= num_pixel) & ((counts > 0).sum(axis=1) == 1) & (num_pixel > 1)
    semantic_entropy, pixel_entropy = _entropy(semantic_counts), _entropy(counts.ravel())
    return {
        "semantic_usage": float(used.mean()),
        "pixel_usage": float((counts > 0).mean()),
        "pixel_usage_within_used": float((counts[used] > 0).mean()),
        "dead_sub_codebooks": int(dead.sum()),
        "semantic_perplexity": float(np.exp(semantic_entropy)),
        "pixel_perplexity": float(np.exp(pixel_entropy)),
        "pixel_perplexity_given_semantic": float(np.exp(pixel_entropy - semantic_entropy)),
        "num_semantic_codes": num_semantic,
        "num_pixel_codes": num_pixel,
        "num_positions": num_positions,
    }


def usage_map(counts: np.ndarray) -> np.ndarray:
    """A picture (height, width, 3) uint8 of the (K, M) counts of `codebook_statistics`.

    Each semantic code is a column of M cells, the most frequent code first and its most frequent
    pixel code on top; columns wrap into rows. Never seen is white, then the more often the darker,
    by the logarithm. Dead sub-codebooks show where global numbers hide them.
    """
    num_semantic, num_pixel = counts.shape
    columns = min(num_semantic, MAP_COLUMNS)
    rows = -(-num_semantic // columns)
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    sorted_counts = -np.sort(-counts[order], axis=1)
    shade = np.log1p(sorted_counts) / max(np.log1p(counts.max()), 1e-9)
    # (K, M) → rows of columns; what the last row lacks is grey, which no code is.
    padded = np.full((rows * columns, num_pixel), np.nan)
    padded[:num_semantic] = shade
    cells = padded.reshape(rows, columns, num_pixel).transpose(0, 2, 1)
    light = np.array([205, 222, 250]) - np.nan_to_num(cells)[..., None] * np.array([195, 170, 130])
    light[cells == 0] = 255
    light[np.isnan(cells)] = 128
    scale = max(1, MAP_WIDTH // columns)
    picture = light.repeat(scale, axis=1).repeat(scale, axis=2)
    line = np.full((rows, 1, columns * scale, 3), 128)  # between the rows
    return np.concatenate([picture, line], axis=1).reshape(-1, columns * scale, 3).astype(np.uint8)


def _entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that the counts describe."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
