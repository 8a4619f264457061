"""The page kit of every report: templates, tables, figures.

Imports no other room. Begin with `page`.
"""
