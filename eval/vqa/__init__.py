"""Visual question answering by the official rules.

Imports its own `benchmarks` and `scorers`, `measures` and `reports`. Begin with `task`.
"""
