"""What a command is: its name, its settings and the function that runs it, both by name.

Nothing is imported before the command is chosen, so that `semhitok --help` never waits.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError


@dataclass(frozen=True)
class Command:
    """One command of `semhitok`."""

    name: str
    """Its words, such as `train semantic`."""
    about: str
    """One line for the list of commands and its own help."""
    words: str
    """What follows its name in an example."""
    settings: str
    """Its settings class, as `module:Class`; importing it must not import torch."""
    function: str
    """What runs, as `module:function`: takes the settings, and returns the paths that it wrote."""
    check_data: str = ""
    """What refuses prepared data that cannot serve, as `module:function` of the settings; a recipe
    calls it as soon as the data are there."""
    yaml: bool = False
    """Whether settings come from a YAML file and `key.sub=value` words, and not from options."""

    @property
    def example(self) -> str:
        """A whole call."""
        return f"semhitok {self.name} {self.words}"

    def read(self, argv: Sequence[str]) -> Any:
        """The settings that arguments say.

        Raises:
            UserError: for arguments that cannot be right.
        """
        from semhitok.options import Parser, add_options, read_options
        from semhitok.yaml_options import add_yaml_options, read_yaml_options

        settings_class = load(self.settings)
        about = self.about[0].upper() + self.about[1:] + "."
        parser = Parser(f"semhitok {self.name}", about, self.example)
        if self.yaml:
            add_yaml_options(parser, settings_class)
            return read_yaml_options(parser, settings_class, argv)
        add_options(parser, settings_class)
        return read_options(parser, settings_class, argv)

    def run(self, settings: Any) -> list[str]:
        """Run with the given settings.

        Returns:
            Paths of what was written.
        """
        written = load(self.function)(settings)
        if written is None:
            return []
        if isinstance(written, (str, Path)):
            return [str(written)]
        return [str(path) for path in written]


def load(target: str) -> Any:
    """The object that `module:name` names.

    Raises:
        UserError: if a package that it needs is not installed.
    """
    module_name, name = target.split(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the Python package {error.name!r} is missing; install semhitok with its dependencies"
        ) from error
    return getattr(module, name)
