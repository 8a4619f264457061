"""What several evaluations share: image sources, feature networks, set distances, intervals.

Imports `reports`. Begin with `conditions`.
"""
