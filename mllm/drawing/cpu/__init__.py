"""What speeds up float32 drawing on a CPU: precomputed tables, prepacked weights, a compiled pass.

Imports `drawing.step` and `model`. Begin with `parts`, the only door.
"""
