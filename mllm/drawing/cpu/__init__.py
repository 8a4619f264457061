"""What speeds up float32 drawing on a CPU: precomputed tables, prepacked weights, a compiled pass.

Imports `model` and the parts of `drawing` below the engine. Begin with `parts`, the only door.
"""
