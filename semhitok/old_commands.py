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
    TEST_DATA,
    TOKENIZER,
    Parser,
    add_children,
    add_command,
    add_config,
    add_count,
    add_data,
    add_model,
    add_out,
    add_out_place,
)

TOKENIZER_PHASE = "tokenizer.training.train:command"
TRAINING_PHASES = {
    "teacher": ("train a small SigLIP on image-caption pairs", TOKENIZER_PHASE),
    "semantic": (
        "train the semantic codebook on a teacher's features",
        TOKENIZER_PHASE,
    ),
    "pixel": (
        "train the pixel sub-codebooks on a frozen semantic half",
        TOKENIZER_PHASE,
    ),
    "decoder": (
        "train the Enhance Decoder on frozen codebooks",
        TOKENIZER_PHASE,
    ),
    "joint": (
        "train both levels of codes at once, to compare with",
        TOKENIZER_PHASE,
    ),
}


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
    _add_train(commands)
    _add_extract_codes(commands)
    _add_reconstruct(commands)
    _add_describe(commands)
    _add_export_tokenizer(commands)
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


def _add_train(commands: Any) -> None:
    example = "semhitok train semantic --config configs/quickstart/semantic.yaml"
    train = add_command(commands, "train", "run one training phase, or go on with it", example)
    phases = add_children(train, "phase")
    for name, (about, target) in TRAINING_PHASES.items():
        folder = "ablation" if name == "joint" else "quickstart"
        example = f"semhitok train {name} --config configs/{folder}/{name}.yaml"
        add_config(add_command(phases, name, about, example, target))


def _add_extract_codes(commands: Any) -> None:
    command = add_command(
        commands,
        "extract-codes",
        "turn prepared images into shards of image codes",
        f"semhitok extract-codes --tokenizer {TOKENIZER} --data {TEST_DATA} --out runs/codes-test",
        "tokenizer.extraction.extract:command",
    )
    add_model(command, "--tokenizer", "the image tokenizer")
    add_data(command)
    add_out_place(command)
    add_count(command, "--num-crops", 1, "crops of each image; the first is the centre")
    add_count(command, "--batch-size", 32, "images encoded at once")
    add_count(command, "--shard-size", 2000, "records in a shard")
    command.add_argument(
        "--num-workers",
        type=cli_types.non_negative_int,
        metavar="N",
        help="processes that decode images, for each rank (default: none beside a model on the "
        "CPU, up to 8 beside a GPU)",
    )
    command.add_argument(
        "--device", default="auto", help="cpu, cuda, or auto, which takes a GPU where there is one"
    )


def _add_reconstruct(commands: Any) -> None:
    command = add_command(
        commands,
        "reconstruct",
        "encode images and decode them again",
        f"semhitok reconstruct --tokenizer {TOKENIZER} runs/quickstart/images/test-0.png "
        "--out runs/reconstructed",
        "tokenizer.extraction.reconstruct:command",
    )
    add_model(command, "--tokenizer", "the image tokenizer")
    command.add_argument(
        "images", nargs="+", type=cli_types.existing_file, metavar="IMAGE", help="image files"
    )
    command.add_argument(
        "--resolution",
        type=cli_types.positive_int,
        metavar="N",
        help="pixels of a side, to which positions are interpolated (default: the tokenizer's own)",
    )
    add_out(command)


def _add_describe(commands: Any) -> None:
    command = add_command(
        commands,
        "describe",
        "print the sizes of an image tokenizer: parameters by part, codes, tokens",
        f"semhitok describe --tokenizer {TOKENIZER}",
        "tokenizer.training.describe:command",
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--tokenizer", type=cli_types.model_folder, metavar="DIR", help="the image tokenizer"
    )
    which.add_argument(
        "--config",
        type=cli_types.config_file,
        metavar="FILE",
        help="YAML of a semantic phase, which nothing is allocated or trained for",
    )
    command.add_argument(
        "overrides",
        nargs="*",
        type=cli_types.override,
        metavar="key.sub=value",
        help="settings in place of the config file's",
    )


def _add_export_tokenizer(commands: Any) -> None:
    command = add_command(
        commands,
        "export-tokenizer",
        "write the encoder half or the decoder half of an image tokenizer alone",
        f"semhitok export-tokenizer --tokenizer {TOKENIZER} --half encoder --out runs/encoder",
        "tokenizer.saved.halves:command",
    )
    add_model(command, "--tokenizer", "the image tokenizer")
    command.add_argument(
        "--half",
        choices=("encoder", "decoder"),
        required=True,
        help="images to codes, or codes to images",
    )
    add_out(command)


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
