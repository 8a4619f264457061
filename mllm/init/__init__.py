"""Builds the untrained unified model: language model, image tokenizer, new weights.

Imports `model` and `saved`. Begin with `build`.
"""
