"""`semhitok prepare`: rows of sources become checked shards, the same bytes every time.

Imports `sources`. Begin with `run`.
"""
