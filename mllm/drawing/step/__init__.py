"""One step of drawing: the decoder over a static cache, and the choice of the next codes.

Imports `model`. Begin with `decoder_step`.
"""
