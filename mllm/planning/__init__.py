"""Memory, tokens and FLOPs of a training run, without weights or a GPU.

Imports `phase`, `init`, `saved` and `model`. Begin with `plan`; `command` is `semhitok plan`.
"""
