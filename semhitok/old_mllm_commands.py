"""The commands of the language model, but its training: their arguments and where they live.

The examples work after `semhitok quickstart`, but `export-llm` needs a model with a flat head
beside it, and `merge-lora` one with LoRA layers.
"""

import argparse
from typing import Any

from runtime import argument_types as cli_types
from semhitok.old_options import (
    MODEL,
    add_command,
    add_config,
    add_count,
    add_editing,
    add_fine_sampler,
    add_model,
    add_number,
    add_out,
    add_sampler,
)

FLAT_MODEL = "runs/flat"  # init-mllm ... image_head=flat image_positions=none out=runs/flat
LORA_MODEL = "runs/lora/model"  # train mllm ... lora.rank=16 out=runs/lora


def add_language_model(commands: Any) -> None:
    """From `init-mllm` to `serve`."""
    _add_init_mllm(commands)
    _add_plan(commands)
    _add_export_llm(commands)
    _add_merge_lora(commands)
    _add_generate(commands)
    _add_ask(commands)
    _add_chat(commands)
    _add_serve(commands)


def _add_init_mllm(commands: Any) -> None:
    command = add_command(
        commands,
        "init-mllm",
        "make the untrained language model with its image vocabulary",
        "semhitok init-mllm --config configs/quickstart/init_mllm.yaml",
        "mllm.init.build:command",
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
        "mllm.planning.plan:command",
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
        "mllm.saved.export:command",
    )
    add_model(command, "--model", "a language model with image_head flat and no grid positions")
    add_out(command)


def _add_merge_lora(commands: Any) -> None:
    command = add_command(
        commands,
        "merge-lora",
        "fold the LoRA layers of a trained model into its plain matrices",
        f"semhitok merge-lora --model {LORA_MODEL} --out runs/merged",
        "mllm.saved.merge_lora:command",
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
        "mllm.serving.draw_list:command",
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
        help="compile the drawing loop: pays on long lists, most with small models; on a CPU it "
        "takes a C++ compiler and 20 seconds at the start, more of a large model",
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
        "mllm.serving.ask_list:command",
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
        "mllm.serving.chat_session:command",
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
        "mllm.serving.server:command",
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
