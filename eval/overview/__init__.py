"""Everything that was measured, on one page: of a model (`run_all`), of a recipe's run.

Imports all other rooms. Begin with `run_all` or `run_report`.
"""
