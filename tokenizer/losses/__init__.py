"""Losses on images: perceptual distances and the adversary."""
