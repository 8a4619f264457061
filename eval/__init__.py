"""Measures what a saved model can do: reconstruction, visual questions, drawing.

Rooms, each of which imports only those to its right:
overview → analysis → drawing | vqa | reconstruction → measures → reports; beside them the plugin of
lmms-eval.
Each evaluation is one function of its settings, in the room's `task`.
"""
