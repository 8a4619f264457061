"""The engine alone uses what only drawing on a CPU needs, and through one door."""

import ast
from pathlib import Path

import mllm

ROOT = Path(mllm.__file__).parents[1]
PACKAGES = ("benchmarks", "semhitok", "eval", "mllm", "tokenizer", "data_pipelines", "runtime")


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_nothing_but_the_engine_opens_the_door():
    room = ROOT / "mllm" / "drawing" / "cpu"
    users = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            inside = {name for name in imported(path) if name.startswith("mllm.drawing.cpu")}
            if inside and not path.is_relative_to(room):
                users[path.relative_to(ROOT).as_posix()] = inside
    parts = "mllm.drawing.cpu.parts"
    assert users == {"mllm/drawing/engine.py": {parts, f"{parts}.make_parts"}}
