"""Readers of other people's files: each turns one format into records of the one schema.

Imports the modules of `data_pipelines` alone. Begin with `source`.
"""
