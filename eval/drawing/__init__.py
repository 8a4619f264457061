"""How well drawings show what their prompts ask for.

Imports `reconstruction`, `measures` and `reports`. Begin with `task`.
"""
