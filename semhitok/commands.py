"""All commands by name, in the order in which `semhitok --help` lists them."""

from semhitok import (
    data_commands,
    eval_commands,
    mllm_commands,
    recipe_commands,
    tokenizer_commands,
)
from semhitok.command import Command

GROUPS = {
    "data": "look at prepared data",
    "train": "run one training phase, or resume it",
    "eval": "measure a saved model",
}
"""What the first word of several commands means."""

_ALL: tuple[Command, ...] = (
    *recipe_commands.COMMANDS,
    *data_commands.COMMANDS,
    *tokenizer_commands.COMMANDS,
    *mllm_commands.COMMANDS,
    *eval_commands.COMMANDS,
)
COMMANDS = {command.name: command for command in _ALL}
