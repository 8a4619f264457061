"""The benchmarks' official rules, one a file; nothing here needs a model.

Imports no other room. Begin with `task`.
"""
