"""How much of the two codebooks a data set uses.

Shapes: K semantic codes, M pixel codes in the sub-codebook of each semantic code.
"""

import numpy as np


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


def _entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that the counts describe."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
