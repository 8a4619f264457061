"""The phases that train a tokenizer: teacher, semantic, pixel, decoder, joint.

Imports every other room but `extraction`. Begin with `train`.
"""
