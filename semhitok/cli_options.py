"""The parser class, and the options that several commands share."""

import argparse
from typing import Any, NoReturn

from semhitok import cli_types
from semhitok.errors import UserError


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


def add_drawing_task(command: argparse.ArgumentParser) -> None:
    """Which benchmark is drawn, and what judges it."""
    command.add_argument(
        "--task",
        default="easy-vqa",
        metavar="NAME",
        help="easy-vqa, with a rule of its own, or geneval, dpg, mjhq, wise, t2i-compbench, "
        "geneval2, drawn into their own layouts (default: easy-vqa)",
    )
    command.add_argument("--prompts", metavar="FILE", help="the benchmark's own prompt file")
    command.add_argument(
        "--images",
        type=cli_types.existing_folder,
        metavar="DIR",
        help="score these drawings, in the benchmark's layout, and draw none",
    )
    command.add_argument(
        "--seeds",
        type=cli_types.positive_int,
        metavar="N",
        help="drawings of each prompt (default: the benchmark's number; of easy-vqa 4)",
    )
    add_number(command, "--seed", 0, "of the first drawing of a benchmark")
    command.add_argument(
        "--clip", metavar="NAME", help="CLIPScore by this CLIP, hub name or folder"
    )
    command.add_argument(
        "--detector",
        metavar="NAME",
        help="score geneval by this Mask2Former, or `default`; not the official detector",
    )
    command.add_argument(
        "--judge",
        metavar="NAME",
        help="score dpg or geneval2 by this vision-language model, or `self`",
    )
    command.add_argument(
        "--reference",
        type=cli_types.existing_folder,
        metavar="DIR",
        help="real images that --network measures the drawings against",
    )
    add_set_distance(command)


def add_reconstruction_options(command: argparse.ArgumentParser) -> None:
    """What images are measured at, and by which networks."""
    command.add_argument(
        "--resolution",
        type=cli_types.positive_int,
        metavar="N",
        help="pixels of a side (default: the tokenizer's own)",
    )
    command.add_argument(
        "--crop",
        choices=("adm", "shorter-side", "stretch"),
        help="how a picture becomes square (default: shorter-side for prepared data, else adm)",
    )
    add_set_distance(command)
    command.add_argument(
        "--perceptual",
        metavar="NAME",
        help="perceptual distance too: lpips-vgg, efficientnet-lite0 or a vision encoder",
    )
    command.add_argument(
        "--max-images",
        type=cli_types.positive_int,
        metavar="N",
        help="images to take, evenly spaced (default: all)",
    )


def add_set_distance(command: argparse.ArgumentParser) -> None:
    """Feature networks and the distances by them."""
    command.add_argument(
        "--network",
        type=cli_types.names,
        metavar="NAME,...",
        help="feature networks of set distances: inception (FID), efficientnet-lite0, or a CLIP, "
        "DINOv2 or like encoder by hub name or folder (default: none)",
    )
    command.add_argument(
        "--distance",
        type=cli_types.set_distances,
        default=["frechet"],
        metavar="NAME,...",
        help="frechet, kid or both (default: frechet)",
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


def add_fine_sampler(command: argparse.ArgumentParser) -> None:
    """The sampling options that only drawing itself takes."""
    sampler = command.add_argument_group("sampling, in detail")
    sampler.add_argument(
        "--guidance-schedule",
        choices=("constant", "linear", "cosine"),
        help="how guidance rises from 1 at the first patch to its scale at the last",
    )
    sampler.add_argument(
        "--min-p",
        type=cli_types.fraction,
        metavar="P",
        help="choose among those at least P times as likely as the likeliest",
    )
    for option, kind, metavar in (
        ("--pixel-top-k", cli_types.positive_int, "N"),
        ("--pixel-top-p", cli_types.probability, "P"),
        ("--pixel-min-p", cli_types.fraction, "P"),
    ):
        same = option.replace("pixel-", "")
        sampler.add_argument(
            option, type=kind, metavar=metavar, help=f"as {same}, for pixel codes alone"
        )


def add_editing(command: argparse.ArgumentParser) -> None:
    """What stays of an image, and is not drawn."""
    editing = command.add_argument_group("editing")
    editing.add_argument(
        "--image",
        type=cli_types.existing_file,
        metavar="FILE",
        help="the image to draw anew in part",
    )
    ways = editing.add_mutually_exclusive_group()
    ways.add_argument(
        "--keep-mask",
        type=cli_types.existing_file,
        metavar="FILE",
        help="an image of the same size, white where the other is kept",
    )
    ways.add_argument(
        "--keep-rows",
        type=cli_types.positive_int,
        metavar="R",
        help="keep the first R rows of patches, and go on from them",
    )
    ways.add_argument(
        "--keep",
        choices=("semantics",),
        help="keep every semantic code, and draw the pixel codes anew",
    )
    editing.add_argument(
        "--paint-over",
        action="store_true",
        help="hide what is drawn anew from the codes that are kept, which have seen all of the "
        "image",
    )
