"""Draws image codes token by token: engine, cache, best of several candidates, editing.

Imports `saved` and `model`. Begin with `engine`.
"""
