import numpy as np
import pytest

from tokenizer.codebook_usage import codebook_statistics


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


def test_a_sub_codebook_that_always_gives_one_code_is_dead():
    counts = np.array([[9, 0, 0], [5, 4, 0], [2, 0, 0], [0, 0, 0]])
    statistics = codebook_statistics(counts)
    # The third was met twice, too rarely to show its three codes; the last one never.
    assert statistics["dead_sub_codebooks"] == 1


def test_a_sub_codebook_of_one_code_is_not_dead():
    assert codebook_statistics(np.array([[9], [4]]))["dead_sub_codebooks"] == 0
