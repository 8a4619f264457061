import numpy as np
import pytest

from eval.codebook_usage import codebook_statistics


def test_equal_use_of_every_code_gives_full_usage_and_perplexity():
    statistics = codebook_statistics(np.full((8, 3), 5))
    assert statistics["semantic_usage"] == statistics["pixel_usage"] == 1
    assert statistics["semantic_perplexity"] == pytest.approx(8)
    assert statistics["pixel_perplexity"] == pytest.approx(24)
    assert statistics["pixel_perplexity_given_semantic"] == pytest.approx(3)


def test_sub_codebooks_of_unused_semantic_codes_are_left_out_within_used():
    counts = np.zeros((4, 2), dtype=int)
    counts[1] = [7, 0]
    statistics = codebook_statistics(counts)
    assert statistics["semantic_usage"] == 0.25
    assert statistics["pixel_usage"] == 1 / 8
    assert statistics["pixel_usage_within_used"] == 0.5
    assert statistics["pixel_perplexity"] == pytest.approx(1)


def test_no_codes_are_refused():
    with pytest.raises(ValueError):
        codebook_statistics(np.zeros((2, 2), dtype=int))
