"""What every run shares: errors, files, settings, run folders, ranks, progress and metrics.

Imports none of the other packages. Begin with `settings` and `run_folder`.
"""
