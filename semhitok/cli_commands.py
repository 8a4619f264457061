"""The sub-commands of `semhitok`: their arguments, an example of each, and where they live.

A target is "module:function". It is a string, imported when the command runs, so that `--help`
waits for neither torch nor transformers. The function takes the parsed arguments and returns the
path, or paths, of what it wrote.

The examples work as they stand after `semhitok quickstart`; `export-llm` needs a model with a flat
head beside it, `merge-lora` one with LoRA layers.
"""

import argparse
from typing import Any

from semhitok import __version__, cli_types
from semhitok.cli_eval_commands import add_eval
from semhitok.cli_options import (
    MODEL,
    TEST_DATA,
    TOKENIZER,
    Parser,
    add_children,
    add_command,
    add_config,
    add_count,
    add_data,
    add_editing,
    add_fine_sampler,
    add_model,
    add_number,
    add_out,
    add_out_place,
    add_sampler,
)

FLAT_MODEL = "runs/flat"  # init-mllm ... image_head=flat image_positions=none out=runs/flat
LORA_MODEL = "runs/lora/model"  # train mllm ... lora.rank=16 out=runs/lora

TRAINING_PHASES = {
    "teacher": ("train a small SigLIP on image-caption pairs", "tokenizer.train:command"),
    "semantic": ("train the semantic codebook on a teacher's features", "tokenizer.train:command"),
    "pixel": ("train the pixel sub-codebooks on a frozen semantic half", "tokenizer.train:command"),
    "decoder": ("train the Enhance Decoder on frozen codebooks", "tokenizer.train:command"),
    "joint": ("train both levels of codes at once, to compare with", "tokenizer.train:command"),
    "mllm": ("train the language model on questions and drawing", "mllm.train:command"),
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
    _add_prepare(commands)
    _add_data(commands)
    _add_train(commands)
    _add_extract_codes(commands)
    _add_reconstruct(commands)
    _add_describe(commands)
    _add_export_tokenizer(commands)
    _add_init_mllm(commands)
    _add_plan(commands)
    _add_export_llm(commands)
    _add_merge_lora(commands)
    _add_generate(commands)
    _add_ask(commands)
    _add_chat(commands)
    _add_serve(commands)
    add_eval(commands)
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


def _add_prepare(commands: Any) -> None:
    command = add_command(
        commands,
        "prepare",
        "validate raw images, captions, questions, conversations and texts into shards",
        "semhitok prepare easy-vqa-test --out runs/prepared-test",
        "data_pipelines.prepare:command",
    )
    command.add_argument(
        "sources",
        nargs="+",
        type=cli_types.data_source,
        metavar="SOURCE",
        help="easy-vqa-train, easy-vqa-test, a folder of images, or KIND:PATH[,key=value...], such "
        "as llava:chat.json,images=DIR; kinds: folder, llava, parquet, arrow, webdataset, hub, "
        "vqav2, gqa, textvqa, jsonl, emoji (see docs/data.md)",
    )
    add_out_place(command)
    command.add_argument(
        "--num-workers",
        type=cli_types.positive_int,
        metavar="N",
        help="processes (default: as many as there are cores)",
    )
    command.add_argument(
        "--test-share",
        type=cli_types.share,
        default=0.0,
        metavar="P",
        help="share of the images to hold out in DIR/test; the rest goes to DIR/train (default: 0)",
    )
    command.add_argument(
        "--drop-duplicates",
        action="store_true",
        help="reject a record whose image came before (default: only count them)",
    )
    command.add_argument(
        "--max-rejects",
        type=cli_types.non_negative_int,
        metavar="N",
        help="stop when more records than this are unusable (default: no limit)",
    )
    add_count(command, "--shard-size", 2000, "records read for a shard")


def _add_data(commands: Any) -> None:
    example = f"semhitok data inspect {TEST_DATA}"
    children = add_children(
        add_command(commands, "data", "look at prepared data", example), "subcommand"
    )
    command = add_command(
        children,
        "inspect",
        "counts, lengths, sizes, a contact sheet and rejects of prepared data, as one HTML page",
        f"semhitok data inspect {TEST_DATA} --out runs/inspect.html",
        "data_pipelines.inspect_page:command",
    )
    command.add_argument(
        "data",
        type=cli_types.existing_folder,
        metavar="DIR",
        help="folder that `semhitok prepare` wrote",
    )
    command.add_argument(
        "--out",
        type=cli_types.new_file,
        metavar="FILE",
        help="page to write (default: DIR/inspect.html)",
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
        "tokenizer.extract:command",
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
        "tokenizer.reconstruct:command",
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
        "tokenizer.describe:command",
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
        "tokenizer.halves:command",
    )
    add_model(command, "--tokenizer", "the image tokenizer")
    command.add_argument(
        "--half",
        choices=("encoder", "decoder"),
        required=True,
        help="images to codes, or codes to images",
    )
    add_out(command)


def _add_init_mllm(commands: Any) -> None:
    command = add_command(
        commands,
        "init-mllm",
        "make the untrained language model with its image vocabulary",
        "semhitok init-mllm --config configs/quickstart/init_mllm.yaml",
        "mllm.init:command",
    )
    add_config(command, required=False)
    for option, metavar, what in (
        ("--llm", "NAME", "pre-trained causal LM, a folder or a hub name (setting llm)"),
        ("--tokenizer", "DIR", "the image tokenizer (setting tokenizer)"),
        ("--out", "DIR", "folder to write (setting out)"),
    ):
        command.add_argument(option, type=cli_types.words, metavar=metavar, help=what)


def _add_plan(commands: Any) -> None:
    command = add_command(
        commands,
        "plan",
        "memory, tokens and FLOPs of a training of the language model, from its config alone",
        "semhitok plan --config configs/quickstart/mllm.yaml --gpus 2 --gpu-memory 80G",
        "mllm.plan:command",
    )
    add_config(command)
    command.add_argument(
        "--init",
        type=cli_types.config_file,
        metavar="FILE",
        help="settings of init-mllm while the model is not made (default: init_mllm.yaml beside "
        "the config)",
    )
    add_count(command, "--gpus", 1, "ranks")
    command.add_argument(
        "--gpu-memory",
        type=cli_types.memory_size,
        default="80G",
        metavar="SIZE",
        help="memory of each, such as 80G (default: 80G)",
    )
    command.add_argument(
        "--json", type=cli_types.new_file, metavar="FILE", help="write the plan as JSON as well"
    )


def _add_export_llm(commands: Any) -> None:
    command = add_command(
        commands,
        "export-llm",
        "write a model with a flat head as a plain causal LM, for servers such as vLLM",
        f"semhitok export-llm --model {FLAT_MODEL} --out runs/exported",
        "mllm.export:command",
    )
    add_model(command, "--model", "a language model with image_head flat and no grid positions")
    add_out(command)


def _add_merge_lora(commands: Any) -> None:
    command = add_command(
        commands,
        "merge-lora",
        "fold the LoRA layers of a trained model into its plain matrices",
        f"semhitok merge-lora --model {LORA_MODEL} --out runs/merged",
        "mllm.merge_lora:command",
    )
    add_model(command, "--model", "the language model with LoRA layers")
    add_out(command)


def _add_generate(commands: Any) -> None:
    command = add_command(
        commands,
        "generate",
        "draw images from prompts",
        f'semhitok generate --model {MODEL} --prompt "a teal triangle" --num-images 4 '
        "--out runs/drawn",
        "mllm.draw_list:command",
    )
    add_model(command, "--model", "the language model")
    prompts = command.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", type=cli_types.words, metavar="TEXT", help="what to draw")
    prompts.add_argument(
        "--prompts",
        type=cli_types.prompts_file,
        metavar="FILE",
        help="text with one prompt a line, .jsonl or .parquet (prompt, negative_prompt, seed, id), "
        "or - for standard input",
    )
    command.add_argument(
        "--negative-prompt",
        type=cli_types.words,
        metavar="TEXT",
        help="what guidance leads away from (default: nothing in particular)",
    )
    add_out(command)
    add_count(command, "--num-images", 1, "drawings of each prompt")
    add_number(command, "--seed", 0, "the same seed draws the same images")
    add_count(command, "--batch-size", 16, "images drawn at once")
    command.add_argument(
        "--compile",
        action="store_true",
        help="compile the drawing loop: pays on long lists with small models, takes a C++ compiler",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="draw again what the folder holds of other prompts, settings or models",
    )
    add_editing(command)
    add_sampler(command)
    add_fine_sampler(command)


def _add_ask(commands: Any) -> None:
    command = add_command(
        commands,
        "ask",
        "answer questions about images",
        f"semhitok ask --model {MODEL} --image runs/quickstart/images/test-0.png "
        '--question "what is the red shape?"',
        "mllm.ask_list:command",
    )
    add_model(command, "--model", "the language model")
    command.add_argument(
        "--image",
        dest="images",
        type=cli_types.existing_file,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="what to look at; every question is asked about every image",
    )
    command.add_argument(
        "--together",
        action="store_true",
        help="show all images at once, for questions about several",
    )
    asked = command.add_mutually_exclusive_group()
    asked.add_argument(
        "--question",
        dest="question",
        type=cli_types.words,
        nargs="+",
        action="extend",
        default=[],
        metavar="TEXT",
        help="what to answer",
    )
    asked.add_argument(
        "--questions",
        type=cli_types.existing_file,
        metavar="FILE",
        help="JSONL with image (a file) or images, question and, if wanted, options and id",
    )
    command.add_argument(
        "--options",
        type=cli_types.names,
        metavar="TEXT,...",
        help="choose the likeliest of these instead of writing an answer",
    )
    command.add_argument(
        "--out",
        type=cli_types.new_file,
        metavar="FILE",
        help="write the answers as JSONL, and go on after those that are there",
    )
    add_count(command, "--max-new-tokens", 16, "longest answer, in tokens")
    add_count(command, "--batch-size", 16, "questions at once")


def _add_chat(commands: Any) -> None:
    command = add_command(
        commands,
        "chat",
        "talk about images in the terminal, and draw some",
        f"semhitok chat --model {MODEL} --no-history",
        "mllm.chat_session:command",
    )
    add_model(command, "--model", "the language model")
    add_out(command, default="runs/chat")
    command.add_argument(
        "--history",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the model sees the conversation so far, or only the question and the last "
        "images; a model trained on single questions wants --no-history (default: it does)",
    )
    add_count(command, "--max-new-tokens", 256, "longest answer, in tokens")
    add_number(command, "--seed", 0, "of the first drawing; the others take the numbers after it")
    add_sampler(command)


def _add_serve(commands: Any) -> None:
    command = add_command(
        commands,
        "serve",
        "draw, ask, vary and look at codes on a page in the browser",
        f"semhitok serve --model {MODEL}",
        "mllm.serve:command",
    )
    add_model(command, "--model", "the language model")
    command.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="where to listen; the page has no password (default: this machine alone)",
    )
    command.add_argument(
        "--port",
        type=cli_types.non_negative_int,
        default=7860,
        metavar="N",
        help="of the page; 0 takes a free one (default: 7860)",
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
