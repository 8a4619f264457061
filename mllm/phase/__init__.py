"""What a training phase is: its settings, which parts train, with which optimiser.

Imports `model`, `data` and `saved`. Begin with `settings`.
"""
