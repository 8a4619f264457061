"""Reads prepared shards for training and measuring: by index, in a seeded order, as pixels.

Imports the modules of `data_pipelines` alone, and no other room. Begin with `dataset`.
"""
