import numpy as np
import pytest

from tokenizer.codebooks.usage import MAP_COLUMNS, codebook_statistics, usage_map


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


def cells(counts):
    """The usage map at one number a cell: (rows, M, columns) of mean lightness."""
    picture = usage_map(counts).mean(-1)
    columns = min(len(counts), MAP_COLUMNS)
    scale = picture.shape[1] // columns
    rows = picture.reshape(-1, counts.shape[1] * scale + 1, columns * scale)
    assert (rows[:, -1] == 128).all()
    return rows[:, :-1:scale, ::scale]


def test_the_usage_map_shows_every_code_the_most_frequent_first():
    counts = np.array([[0, 0, 1], [9, 80, 0], [5, 5, 5], [0, 0, 0]])
    lightness = cells(counts)[0]
    white = lightness == 255
    assert white.tolist() == [
        [False, False, False, True],
        [False, False, True, True],
        [True, False, True, True],
    ]
    # 80 before 9, and the same count is the same shade.
    assert lightness[0, 0] < lightness[1, 0]
    assert len(set(lightness[:, 1])) == 1
    assert lightness[0, 2] > lightness[0, 1] > lightness[0, 0]


def test_the_usage_map_of_many_codes_wraps_and_tells_no_code_from_an_unused_one():
    counts = np.zeros((MAP_COLUMNS + 3, 2), dtype=int)
    counts[7] = [1, 2]
    lightness = cells(counts)
    assert lightness.shape == (2, 2, MAP_COLUMNS)
    assert (lightness[1, :, :3] == 255).all() and (lightness[1, :, 3:] == 128).all()
    assert (lightness[0, :, 1:] == 255).all() and (lightness[0, :, 0] < 255).all()
