"""Rows of small integers as rows of bytes, each integer in only the bits that its range needs.

Lowest bit first, no gap between integers, zeros up to the end of a row's last byte. At 14 + 4 bits
the codes of 256 positions take 448 + 128 bytes; as uint16 and uint8 they would take 512 + 256.
"""

import numpy as np

ROWS_AT_ONCE = 2000
"""Each bit takes eight bytes while a row is packed."""


def bit_width(num_values: int) -> int:
    """Bits that hold 0 … `num_values` - 1; at least 1."""
    return max(1, (num_values - 1).bit_length())


def packed_size(length: int, width: int) -> int:
    """Bytes of a row of `length` integers of `width` bits."""
    return -(-length * width // 8)


def pack(rows: np.ndarray, width: int) -> np.ndarray:
    """(..., N) integers in [0, 2^width) → (..., `packed_size(N, width)`) uint8.

    Raises:
        ValueError: if an integer does not fit.
    """
    if len(rows) > ROWS_AT_ONCE:
        starts = range(0, len(rows), ROWS_AT_ONCE)
        return np.concatenate([pack(rows[start : start + ROWS_AT_ONCE], width) for start in starts])
    if rows.size and (rows.min() < 0 or int(rows.max()) >> width):
        raise ValueError(f"{rows.min()} … {rows.max()} do not fit into {width} bits")
    bits = (rows[..., None] >> np.arange(width)) & 1
    flat = bits.astype(np.uint8).reshape(*rows.shape[:-1], -1)
    return np.packbits(flat, axis=-1, bitorder="little")


def unpack(packed: np.ndarray, length: int, width: int) -> np.ndarray:
    """The inverse of `pack`: (..., bytes) uint8 → (..., N) int64."""
    bits = np.unpackbits(packed, axis=-1, count=length * width, bitorder="little")
    bits = bits.reshape(*packed.shape[:-1], length, width)
    return bits @ (1 << np.arange(width, dtype=np.int64))
