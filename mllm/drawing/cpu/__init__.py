"""What speeds up float32 drawing on a CPU, and nothing else.

Imports `model` and the parts of `drawing` below the engine.
"""
