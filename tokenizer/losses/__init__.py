"""Losses on images: reconstruction terms, perceptual distances, the adversary's formulas.

Imports `model` and `saved`. Begin with `perceptual`.
"""
