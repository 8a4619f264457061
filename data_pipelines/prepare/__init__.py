"""`semhitok prepare`: records of sources become checked shards, the same bytes every time.

Imports `sources` and the modules of `data_pipelines`. Begin with `run`; `part` is the way of a
record: read, checked, written.
"""
