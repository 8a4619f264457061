"""Which shape of which colour a picture shows, by geometry alone.

easy-VQA pictures hold one upright black, blue, ... circle, rectangle or triangle on a light tint.
The rule measures the largest blob, so it can judge drawings without any trained model. It is made
for that world: a square standing on its tip would be called a triangle.

The measure is the mean of (blob area, hull area) / bounding-box area. Its ideal is 1/2 for a
triangle, pi/4 for a circle and 1 for a rectangle, but few pixels make steps, and steps fill the
box. Over the 5,000 real images, by side of the box (square root of its area):

    side      triangle     circle       rectangle
     8 px     0.58-0.71    0.85-0.93    1.00
    10 px     0.56-0.68    0.79-0.92    0.97-1.00
    16 px     0.54-0.62    0.78-0.88    0.99-1.00
    30 px     0.52-0.55    0.79-0.84    1.00

So the limits between them fall with the side. They lie in the gaps, with more room on the side
where a ragged edge, which enlarges the box, pushes the measure down.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

PALETTE = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
"""The exact RGB colours of easy-VQA; the keys are the words of its answers."""
SHAPES = ("circle", "rectangle", "triangle")

BACKGROUND_MIN = 200
"""Every channel of the tint is at least 225; 25 are left for noise."""
FOREGROUND_DISTANCE = 80.0
"""RGB distance from the tint. The palette stays at least 190 away, noise well under 80."""
MIN_AREA = 0.003
"""Smallest blob as a fraction of the picture; the smallest real one has 0.007 (28 of 4,096)."""
MIN_SOLIDITY = 0.8
"""Smallest blob area / hull area; rings and scraps fall below, real shapes stay above 0.89."""


def judge_shape(image: np.ndarray) -> tuple[str, str] | None:
    """The colour and the shape of the largest blob of an (H, W, 3) uint8 RGB picture.

    Words of `PALETTE` and `SHAPES`; None where the picture shows no light background or no single
    clear shape before it.
    """
    pixels = image.astype(np.float32)
    light = pixels.min(axis=-1) >= BACKGROUND_MIN
    if light.mean() < 0.2:
        return None
    background = np.median(pixels[light], axis=0)
    distance = np.linalg.norm(pixels - background, axis=-1)
    blob = _largest_blob(distance > FOREGROUND_DISTANCE)
    if blob is None:
        return None

    # The rim is a blend with the background; the half that is farthest from it is the colour.
    core = blob & (distance >= np.median(distance[blob]))
    colour = np.median(pixels[core], axis=0)
    name = min(PALETTE, key=lambda word: float(np.sum((colour - PALETTE[word]) ** 2)))

    # Edges are cut where colour and background are mixed half and half: blur doesn't move that.
    axis = colour - background
    blob = _largest_blob((pixels - background) @ axis >= 0.5 * (axis @ axis))
    if blob is None or blob.mean() < MIN_AREA:
        return None
    shape = _shape_of(blob)
    return None if shape is None else (name, shape)


def _largest_blob(mask: np.ndarray) -> np.ndarray | None:
    """Return the largest 8-connected part of an (H, W) mask, or None where it is empty."""
    labels, num_blobs = ndimage.label(mask, structure=np.ones((3, 3)))
    if num_blobs == 0:
        return None
    areas = np.bincount(labels.ravel())
    areas[0] = 0  # the background
    return np.asarray(labels == areas.argmax())


def _shape_of(blob: np.ndarray) -> str | None:
    """Name a blob by how much of its bounding box it and its convex hull fill."""
    rows = np.flatnonzero(blob.any(axis=1))
    left = blob[rows].argmax(axis=1)
    right = blob.shape[1] - blob[rows, ::-1].argmax(axis=1)
    # The hull of the pixels' corners; only the ends of each row can lie on it.
    corners = [np.stack([side, y], axis=1) for side in (left, right) for y in (rows, rows + 1)]
    area = float(blob.sum())
    hull_area = ConvexHull(np.concatenate(corners)).volume  # in two dimensions, the area
    if area < MIN_SOLIDITY * hull_area:
        return None
    box_area = float((rows[-1] - rows[0] + 1) * (right.max() - left.min()))
    fill = (area + hull_area) / (2 * box_area)
    side = box_area**0.5
    if fill < 0.66 + 0.70 / side:
        return "triangle"
    return "rectangle" if fill > 0.885 + 0.55 / side else "circle"
