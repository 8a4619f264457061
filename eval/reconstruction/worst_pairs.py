"""The images that come back worst, with what became of them, found while all images go by."""

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipelines.images import to_pil, write_png


class WorstPairs:
    """Keeps the pairs of lowest PSNR of one rank, as many as are wanted of the whole set."""

    def __init__(self, count: int):
        self.count = count
        self._kept: list[tuple[float, int, Tensor, Tensor]] = []

    def offer(self, index: int, psnr: float, image: Tensor, rebuilt: Tensor) -> None:
        """Consider a pair of (3, H, W) in [-1, 1]."""
        # The worst first; the index decides between equals.
        if len(self._kept) < self.count or (psnr, index) < self._kept[-1][:2]:
            bisect.insort(self._kept, (psnr, index, image.clone(), rebuilt.clone()))
            del self._kept[self.count :]

    def save(self, rows: Sequence[dict[str, Any]], folder: Path) -> None:
        """Mark the worst rows of the whole set, `worst` from 0, and save the pairs that are here.

        The rows are those of all images, in their order; rows with a `pair` are shown anyway.
        """
        others = [(row["psnr"], i) for i, row in enumerate(rows) if "pair" not in row]
        ranking = {index: rank for rank, (_, index) in enumerate(sorted(others)[: self.count])}
        for index, rank in ranking.items():
            rows[index]["worst"] = rank
        for _, index, image, rebuilt in self._kept:
            if index in ranking:
                save_pair(image, rebuilt, folder, f"worst-{ranking[index]:02d}")


def save_pair(image: Tensor, rebuilt: Tensor, folder: Path, stem: str) -> None:
    """Save (3, H, W) tensors in [-1, 1] as `STEM_real.png` and `STEM_reconstruction.png`."""
    write_png(to_pil(image), folder / f"{stem}_real.png")
    write_png(to_pil(rebuilt), folder / f"{stem}_reconstruction.png")
