"""Commands that still declare their options by hand."""

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from runtime import argument_types as cli_types
from runtime.errors import UserError, one_line
from runtime.ranks import is_main_rank
from semhitok.old_commands import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0, 2 where the user can mend it, 130 when interrupted. A defect of ours
        raises. With `SEMHITOK_DEBUG=1` a user's error shows its traceback too.
    """
    _quiet_libraries()
    try:
        arguments = parse(argv)
        written = _run(arguments)
    except UserError as error:
        if os.environ.get("SEMHITOK_DEBUG") == "1":
            traceback.print_exc()
        print(f"semhitok: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("semhitok: interrupted", file=sys.stderr)
        return 130
    if is_main_rank():
        for path in written:
            print(f"wrote {path}")
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the arguments.

    Raises:
        UserError: for arguments that cannot be right.
    """
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes positional arguments in one run only: of `a=1 --config FILE b=2` it leaves
    # `b=2` over.
    if hasattr(arguments, "overrides"):
        try:
            arguments.overrides += [cli_types.override(x) for x in rest if not x.startswith("-")]
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        rest = [text for text in rest if text.startswith("-")]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _quiet_libraries() -> None:
    """Let only our own bar and sentences through; what the user has set stays.

    All of these are read when the library is imported, so they come before the command's module.
    """
    for name, value in (
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    # DeepSpeed sets its logger's level when imported, but leaves filters alone.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def _run(arguments: argparse.Namespace) -> list[str]:
    """Import and call the command's function; return the paths of what it wrote."""
    module_name, function_name = arguments.target.split(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the Python package {error.name!r} is missing; install semhitok with its dependencies"
        ) from error
    written = getattr(module, function_name)(arguments)
    if written is None:
        return []
    if isinstance(written, (str, Path)):
        return [str(written)]
    return [str(path) for path in written]
