"""Experiments on a model: ablations, the observation, input ablation, comparison of runs.

Imports every other room but `overview`. Begin with `input_ablation`.
"""
