"""The image tokenizer as a network: configuration, encoders, codebook look-up, decoders.

Imports no other room. Begin with `modeling_semhitok`.
"""
