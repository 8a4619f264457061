import numpy as np
import pytest

from tokenizer.extraction.bit_packing import bit_width, pack, packed_size, unpack


@pytest.mark.parametrize(
    ("num_values", "width"),
    [(1, 1), (2, 1), (3, 2), (8, 3), (12, 4), (16384, 14), (24576, 15), (196608, 18)],
)
def test_the_width_is_the_least_that_holds_the_largest_value(num_values, width):
    assert bit_width(num_values) == width
    assert 2 ** (width - 1) < num_values <= 2**width or num_values == 1


@pytest.mark.parametrize("num_values", [1, 4, 12, 128, 16384, 24576, 196608])
@pytest.mark.parametrize("length", [1, 5, 64])
def test_every_value_comes_back(num_values, length):
    width = bit_width(num_values)
    values = np.random.default_rng(0).integers(0, num_values, (3, 2, length))
    values[0, 0, 0], values[-1, -1, -1] = 0, num_values - 1
    packed = pack(values, width)
    assert packed.shape == (3, 2, packed_size(length, width)) and packed.dtype == np.uint8
    back = unpack(packed, length, width)
    assert back.dtype == np.int64
    assert np.array_equal(back, values)


def test_the_bits_lie_as_documented():
    # An independent packing: the row as one long number, its first integer lowest.
    row, width = [5, 0, 1023, 682, 7], 10
    number = sum(value << width * place for place, value in enumerate(row))
    assert pack(np.array(row), width).tobytes() == number.to_bytes(7, "little")


@pytest.mark.parametrize("value", [-1, 16])
def test_what_does_not_fit_is_an_error(value):
    with pytest.raises(ValueError, match="do not fit into 4 bits"):
        pack(np.array([3, value]), 4)


def test_the_paper_size_takes_the_bytes_it_should():
    assert packed_size(256, bit_width(16384)) == 448
    assert packed_size(256, bit_width(12)) == 128
