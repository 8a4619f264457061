"""Unified models on disk: loading, fingerprints, export, merged LoRA layers.

Imports `model`. Begin with `load`.
"""
