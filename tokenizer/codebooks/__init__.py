"""How codes move while they train: k-means start, updates, dead-code restarts, usage.

Imports `model`. Begin with `training`.
"""
