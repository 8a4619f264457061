"""Readers of other people's files: each turns one format into rows of the one schema.

Imports `records`, `images` and `safe_files` of this package. Begin with `source`.
"""
