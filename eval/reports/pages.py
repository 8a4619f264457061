"""What every page of results is made with: templates, settings as lines, rows that were saved."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def templates() -> "Environment":
    """The templates of `eval/templates`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("eval.reports", "templates"),
        autoescape=True,  # prompts and answers are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings → "packages.torch": "2.13.0"; what is None is left out."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def saved_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file that an evaluation wrote."""
    lines = path.read_text(encoding="utf-8").split("\n")  # an answer may hold U+2028 and the like
    return [json.loads(line) for line in lines if line]
