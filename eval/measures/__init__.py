"""What several evaluations share: image sources, feature networks, set distances, intervals.

Imports no other room.
"""
