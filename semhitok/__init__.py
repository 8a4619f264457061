"""The command line: the table of commands, options made from settings, recipes.

Imports every package below, by name, when a command runs. Begin with `main`; `command` says what an
entry of a table is.
"""

__version__ = "0.1.0"
