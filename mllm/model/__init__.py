"""The unified language model as a network: vocabulary, adapter, heads, loss, attention.

Imports no other room. Begin with `modeling_unified`.
"""
