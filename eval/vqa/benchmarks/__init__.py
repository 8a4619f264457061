"""Reads benchmarks: their published files, hub tables, one's own JSONL, and prepared data.

Imports `scorers`. Begin with `load`.
"""
