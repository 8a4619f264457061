"""The training run itself: loop, checkpoints, samples, log.

Imports `planning`, `phase`, `drawing`, `data`, `saved` and `model`. Begin with `train`.
"""
