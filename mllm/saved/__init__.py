"""Unified models on disk: loading, fingerprints, export, merged LoRA layers.

Imports `drawing` and `model`. Begin with `load`.
"""
