"""Tokenizers on disk: folder, model card, fingerprint, training history.

Imports `model`. Begin with `model_folder`.
"""
