"""The parser class, and the options that several commands share."""

import argparse
from typing import Any, NoReturn

from runtime import argument_types as cli_types
from runtime.errors import UserError

# What `semhitok quickstart` leaves, which the examples of the help texts take.
TOKENIZER = "runs/quickstart/decoder/model"
MODEL = "runs/quickstart/mllm/model"
TEST_DATA = "runs/quickstart/data/test"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence and whose help ends in an example."""

    def __init__(self, prog: str, description: str, example: str):
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=f"example:\n  {example}",
            allow_abbrev=False,  # `--temp` would break on the day that another option starts so
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def add_children(parser: argparse.ArgumentParser, dest: str) -> Any:
    """A required choice among sub-commands, kept in the arguments as `dest`."""
    return parser.add_subparsers(dest=dest, metavar=dest.upper(), required=True)


def add_command(children: Any, name: str, about: str, example: str, target: str = "") -> Parser:
    """One command; `about` serves the list of commands and its own help alike."""
    command: Parser = children.add_parser(
        name, help=about, description=about[0].upper() + about[1:] + ".", example=example
    )
    if target:
        command.set_defaults(target=target)
    return command


def add_model(
    command: argparse.ArgumentParser, option: str, what: str, required: bool = True
) -> None:
    """`--tokenizer` or `--model`: a folder with a saved model."""
    command.add_argument(
        option,
        type=cli_types.model_folder,
        required=required,
        metavar="DIR",
        help=f"folder of {what}",
    )


def add_data(
    command: argparse.ArgumentParser, what: str = "folder that `semhitok prepare` wrote, or its URL"
) -> None:
    """`--data`: a prepared data set."""
    command.add_argument(
        "--data",
        type=cli_types.existing_place,
        required=True,
        metavar="DIR",
        help=what,
    )


def add_out(command: argparse.ArgumentParser, default: str | None = None) -> None:
    """`--out`, which may be left away where there is a default."""
    command.add_argument(
        "--out",
        type=cli_types.output_folder,
        required=default is None,
        default=default,  # argparse passes a default that is text through `type` as well
        metavar="DIR",
        help="folder to write" + (f" (default: {default})" if default else ""),
    )


def add_out_place(command: argparse.ArgumentParser) -> None:
    """`--out` of a command that writes to object stores too."""
    command.add_argument(
        "--out",
        type=cli_types.output_place,
        required=True,
        metavar="DIR",
        help="folder to write, or a URL such as s3://BUCKET/DIR",
    )


def add_config(command: argparse.ArgumentParser, required: bool = True) -> None:
    """`--config` and the overrides that may stand on either side of it."""
    command.add_argument(
        "--config",
        type=cli_types.config_file,
        required=required,
        metavar="FILE",
        help="the settings, YAML",
    )
    command.add_argument(
        "overrides",
        nargs="*",
        type=cli_types.override,
        metavar="key.sub=value",
        help="settings in place of the file's",
    )


def add_count(command: argparse.ArgumentParser, option: str, default: int, what: str) -> None:
    """An option that takes a whole number above 0."""
    command.add_argument(
        option,
        type=cli_types.positive_int,
        default=default,
        metavar="N",
        help=f"{what} (default: {default})",
    )


def add_number(command: argparse.ArgumentParser, option: str, default: int, what: str) -> None:
    """An option that takes a whole number, 0 or more."""
    command.add_argument(
        option,
        type=cli_types.non_negative_int,
        default=default,
        metavar="N",
        help=f"{what} (default: {default})",
    )


def add_sampler(command: argparse.ArgumentParser) -> None:
    """Sampling options; what is not given stays as the model's generation config has it."""
    sampler = command.add_argument_group("sampling (default: the model's generation config)")
    sampler.add_argument(
        "--guidance-scale",
        type=cli_types.non_negative_float,
        metavar="X",
        help="how strongly to follow the prompt; 1 is no guidance",
    )
    sampler.add_argument(
        "--temperature",
        type=cli_types.non_negative_float,
        metavar="X",
        help="spread of the choices; 0 always takes the likeliest",
    )
    sampler.add_argument(
        "--pixel-temperature",
        type=cli_types.non_negative_float,
        metavar="X",
        help="the same for pixel codes alone",
    )
    sampler.add_argument(
        "--num-candidates",
        type=cli_types.positive_int,
        metavar="N",
        help="draw N and give the one in which the model itself best sees the prompt",
    )
    sampler.add_argument(
        "--top-k", type=cli_types.positive_int, metavar="N", help="choose among the N likeliest"
    )
    sampler.add_argument(
        "--top-p",
        type=cli_types.probability,
        metavar="P",
        help="choose among the likeliest that together hold probability P",
    )
