"""Images to shards of codes, and codes back to images.

Imports `model` and `saved`. Begin with `extract`.
"""
