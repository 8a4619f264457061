"""The sub-commands of `semhitok`: their arguments, an example of each, and where they live.

A target is "module:function". It is a string, imported when the command runs, so that `--help`
waits for neither torch nor transformers. The function takes the parsed arguments and returns the
path, or paths, of what it wrote.

The examples work as they stand after `semhitok quickstart`.
"""

import argparse
from typing import Any

from runtime import argument_types as cli_types
from semhitok import __version__
from semhitok.old_options import (
    Parser,
    add_children,
    add_command,
    add_config,
    add_count,
    add_out,
)


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="semhitok",
        description="One tokenizer for seeing and drawing: images to semantic-guided hierarchical "
        "codes,\nand a language model that answers questions about images and draws them.",
        example="semhitok quickstart",
    )
    parser.add_argument("--version", action="version", version=f"semhitok {__version__}")
    # The deepspeed launcher puts it before everything else; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    commands = add_children(parser, "command")
    _add_quickstart(commands)
    _add_ablate(commands)
    return parser


def _add_quickstart(commands: Any) -> None:
    command = add_command(
        commands,
        "quickstart",
        "train, measure and show everything on small real data, on a CPU",
        "semhitok quickstart --out runs/quickstart",
        "semhitok.quickstart:command",
    )
    add_out(command, default="runs/quickstart")
    command.add_argument(
        "--preset",
        choices=("short", "long"),
        default="short",
        help="about 10 minutes on two cores, or about 40 for better numbers (default: short)",
    )
    command.add_argument(
        "--config", type=cli_types.config_file, metavar="FILE", help="YAML in place of the preset's"
    )
    command.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        help="open the report in a browser (default: only when run from a terminal)",
    )


def _add_ablate(commands: Any) -> None:
    command = add_command(
        commands,
        "ablate",
        "train and measure variants of the tokenizer with several seeds, for one table",
        "semhitok ablate --config configs/ablation/quickstart.yaml",
        "semhitok.ablate:command",
    )
    add_config(command)
    command.add_argument(
        "--only",
        type=cli_types.names,
        metavar="NAME,...",
        help="variants to take (default: all of the file's)",
    )
    add_count(command, "--jobs", 1, "variants at a time, which share the cores")
