"""Unified models on disk: loading, fingerprints, export, merged LoRA layers.

Imports `drawing` (for the public model class) and `model`. Begin with `load`.
"""
