"""A training phase: its settings, which parts train, with which optimiser.

Imports `saved`, `drawing`, `data` and `model`. Begin with `settings`.
"""
