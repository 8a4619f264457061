"""Experiments on a model: ablations, the observation, input ablation, comparison of runs; and the
page of `data inspect`.

Imports every other room but `overview`. Begin with `input_ablation`.
"""
