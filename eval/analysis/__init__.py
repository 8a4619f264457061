"""Experiments on a model: ablations, the observation, input ablation, comparison of runs.

Imports the other rooms but `run_all`.
"""
