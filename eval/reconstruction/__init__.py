"""How well images come back from their codes.

Imports `measures` and `reports`. Begin with `task`.
"""
