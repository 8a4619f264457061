"""Reads prepared shards for training and measuring: by index, in a seeded order, as tensors.

Imports nothing of `sources` or `prepare`. Begin with `dataset`.
"""
