"""Draws image codes token by token: engine, cache, best of several candidates.

Imports `model`, its own `step` and, through one door, `cpu`. Begin with `engine`;
`public_model` has what `mllm` exports.
"""
