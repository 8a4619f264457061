"""Builds the untrained unified model: language model, image tokenizer, new weights.

Imports `drawing` (for the public model class), `data` and `model`. Begin with `build`.
"""
