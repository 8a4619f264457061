"""The command line `semhitok`: find a command, read its settings, run it, print one-line errors."""

import difflib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from runtime.errors import UserError, one_line
from runtime.ranks import is_main_rank
from semhitok import __version__
from semhitok.command import Command
from semhitok.commands import COMMANDS, GROUPS, RENAMED

ABOUT = """One tokenizer for seeing and drawing: images to semantic-guided hierarchical codes,
and a language model that answers questions about images and draws them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0, 2 where the user can fix it, 130 when interrupted. A defect of ours
        raises. With `SEMHITOK_DEBUG=1` a user's error shows its traceback too.
    """
    _prepare_environment()
    try:
        found = parse(sys.argv[1:] if argv is None else argv)
        written = [] if found is None else found[0].run(found[1])
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


def parse(argv: Sequence[str]) -> tuple[Command, Any] | None:
    """The command that arguments name, and its settings; None where they only ask for help.

    Raises:
        UserError: for arguments that cannot be right.
    """
    # The deepspeed launcher puts --local_rank before everything else; LOCAL_RANK says the same.
    words = [word for word in argv if not word.startswith("--local_rank")]
    if words[:1] == ["--version"]:
        print(f"semhitok {__version__}")
        return None
    for length in (2, 1):
        if (command := COMMANDS.get(" ".join(words[:length]))) is not None:
            return command, command.read(words[length:])
    group = words[0] if words and words[0] in GROUPS else ""
    rest = words[1:] if group else words
    if rest[:1] in (["--help"], ["-h"]):
        print(overview(group))
        return None
    if (present := RENAMED.get(" ".join(words[:2]))) is not None:
        raise UserError(f"semhitok {' '.join(words[:2])} is called semhitok {present} now")
    prog = f"semhitok {group}".strip()
    if not rest:
        raise UserError(f"name a command (see `{prog} --help`)")
    known = [name.removeprefix(group).strip() for name in _listed(group)]
    near = difflib.get_close_matches(rest[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"see `{prog} --help`"
    raise UserError(f"{prog} has no command {rest[0]!r}; {hint}")


def overview(group: str = "") -> str:
    """The help text of the whole command line, or of one group such as `train`."""
    listed = _listed(group)
    width = max(map(len, listed)) + 2
    about = GROUPS[group][0].upper() + GROUPS[group][1:] + "." if group else ABOUT
    example = next(c.example for n, c in COMMANDS.items() if n.startswith(group))
    lines = [f"usage: semhitok {group or 'COMMAND'} ...", "", about, "", "commands:"]
    lines += [f"  {name:{width}}{what}" for name, what in listed.items()]
    lines += ["", f"`semhitok {next(iter(listed))} --help` tells more.", "", "example:"]
    return "\n".join([*lines, f"  {example}"])


def _listed(group: str) -> dict[str, str]:
    """Name and line of each command of a group, or of all, with a line for each group."""
    if group:
        return {name: c.about for name, c in COMMANDS.items() if name.startswith(f"{group} ")}
    listed = {}
    for name, command in COMMANDS.items():
        first = name.split()[0]
        listed[first] = GROUPS.get(first, command.about)
    return listed


def _prepare_environment() -> None:
    """Set what libraries read when they are imported; what the user has set stays.

    Only our own bar and sentences shall be seen. Waiting threads of OpenMP sleep instead of
    spinning: beside one busy process, two spinning threads are up to 14 times slower than alone.
    """
    for name, value in (
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("OMP_WAIT_POLICY", "PASSIVE"),
    ):
        os.environ.setdefault(name, value)
    # DeepSpeed sets its logger's level when imported, but leaves filters alone.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
