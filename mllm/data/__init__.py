"""Records and codes become packed sequences of token ids and labels.

Imports `model`. Begin with `sequences`, which plans them; `documents` has the worked table.
"""
