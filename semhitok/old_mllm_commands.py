"""The commands of the language model, but its training: their arguments and where they live.

The examples work after `semhitok quickstart`, but `export-llm` needs a model with a flat head
beside it, and `merge-lora` one with LoRA layers.
"""

from typing import Any

from runtime import argument_types as cli_types
from semhitok.old_options import (
    add_command,
    add_config,
    add_count,
    add_model,
    add_out,
)

FLAT_MODEL = "runs/flat"  # init-mllm ... image_head=flat image_positions=none out=runs/flat
LORA_MODEL = "runs/lora/model"  # train mllm ... lora.rank=16 out=runs/lora


def add_language_model(commands: Any) -> None:
    """From `init-mllm` to `merge-lora`."""
    _add_init_mllm(commands)
    _add_plan(commands)
    _add_export_llm(commands)
    _add_merge_lora(commands)


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
