"""The images that come back worst, with what became of them, found while all images go by."""

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipelines.images import to_pil, write_png


class WorstPairs:
    """Keeps the pairs of lowest PSNR of one rank.

    Args:
        count: how many are wanted of the whole set.
    """

    def __init__(self, count: int):
        self.count = count
        self._kept: list[tuple[float, int, Tensor, Tensor]] = []

    def offer(self, index: int, psnr: float, image: Tensor, rebuilt: Tensor) -> None:
        """Consider a pair of (3, H, W) in [-1, 1]."""
        # A heap whose first entry is the best one kept; the index decides between equals.
        if len(self._kept) == self.count and (-psnr, -index) < self._kept[0][:2]:
            return
        heapq.heappush(self._kept, (-psnr, -index, image.clone(), rebuilt.clone()))
        if len(self._kept) > self.count:
            heapq.heappop(self._kept)

    def save(self, rows: Sequence[dict[str, Any]], folder: Path) -> None:
        """Mark the worst rows of the whole set, `worst` from 0, and save the pairs that are here.

        Args:
            rows: of all images, in their order, with their `psnr`; rows with a `pair` are shown
                anyway.
            folder: gets `worst-NN_real.png` and `worst-NN_reconstruction.png`.
        """
        others = [(row["psnr"], i) for i, row in enumerate(rows) if "pair" not in row]
        ranking = {index: rank for rank, (_, index) in enumerate(sorted(others)[: self.count])}
        for index, rank in ranking.items():
            rows[index]["worst"] = rank
        for _, negative, image, rebuilt in self._kept:
            if -negative in ranking:
                save_pair(image, rebuilt, folder, f"worst-{ranking[-negative]:02d}")


def save_pair(image: Tensor, rebuilt: Tensor, folder: Path, stem: str) -> None:
    """Save (3, H, W) tensors in [-1, 1] as `STEM_real.png` and `STEM_reconstruction.png`."""
    write_png(to_pil(image), folder / f"{stem}_real.png")
    write_png(to_pil(rebuilt), folder / f"{stem}_reconstruction.png")
