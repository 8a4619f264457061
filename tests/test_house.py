"""The plan of the code, read from its syntax trees: rooms, sizes, import circles of any kind."""

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "runtime",
    "data_pipelines",
    "tokenizer",
    "mllm",
    "mllm.drawing",
    "eval",
    "semhitok",
    "benchmarks",
)
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imports(module: str) -> set[str]:
    """Our modules that a module imports anywhere, under TYPE_CHECKING and in functions too."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found & MODULES.keys() - {module}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = set()
            while node not in group:
                group.add(stack.pop())
            if len(group) > 1:
                found.append(group)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def room(module: str) -> str:
    """The folder of a module."""
    path = ROOT / Path(*module.split("."))
    return module if path.is_dir() else module.rpartition(".")[0]


def test_circles_are_found_where_there_are_some():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_import_circle_of_modules():
    assert circles({module: imports(module) for module in MODULES}) == []


def test_no_import_circle_of_rooms():
    graph: dict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        graph[room(module)] |= {room(other) for other in imports(module)} - {room(module)}
    assert circles(graph) == []


def test_the_line_under_a_type_checking_guard_and_in_a_function_counts(monkeypatch):
    text = "if TYPE_CHECKING:\n    from mllm.saved import load\ndef f():\n    import runtime.files"
    monkeypatch.setitem(MODULES, "here", ast.parse(text))
    assert imports("here") == {"mllm.saved.load", "runtime.files"}


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=str)
def test_a_folder_holds_at_most_16_modules_and_says_what_lives_there(folder):
    assert sum(path.name != "__init__.py" for path in folder.glob("*.py")) <= 16
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert about and len(about.splitlines()) <= 8
    for name in re.findall(r"Begin with `(\w+)`", " ".join(about.split())):
        assert (folder / f"{name}.py").is_file() or (folder / name).is_dir(), name


def test_files_and_functions_are_short():
    long_files = [path for path in FILES if len(path.read_text("utf-8").splitlines()) > 500]
    assert long_files == []
    long_functions = [
        f"{module}.{node.name}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno >= 100
    ]
    assert long_functions == []


def test_every_module_says_what_it_is_for():
    assert [module for module, tree in MODULES.items() if not ast.get_docstring(tree)] == []


def test_every_folder_of_rooms_has_a_contract_that_names_no_single_modules():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    contracts = settings["contracts"]
    rooms = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*/__init__.py")}
    above = {".".join(room.parent.relative_to(ROOT).parts) for room in rooms}
    assert {name for c in contracts for name in c.get("containers", ())} == above
    for contract in contracts:
        assert contract["type"] == "layers"
        assert "ignore_imports" not in contract
        folder = ROOT.joinpath(*contract.get("containers", [""])[0].split("."))
        for name in re.findall(r"\w+", " ".join(contract["layers"])):
            # lmms-eval looks for its plugins by the name of a module.
            assert (folder / name).is_dir() or name == "lmms_eval_plugin"


def test_no_project_file_names_a_module_that_is_not_there():
    names = "|".join(PACKAGES)
    pattern = re.compile(rf"`((?:{names})(?:\.[a-z_0-9]+)+)`|`((?:{names})/[a-z_0-9/]+\.py)`")
    for path in [*FILES, *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        if path.name in ("CHANGELOG.md", "EXPERIMENTS.md"):
            continue
        for dotted, file in pattern.findall(path.read_text(encoding="utf-8")):
            if file:
                assert (ROOT / file).is_file(), f"{path} names {file}"
            else:
                parts = dotted.split(".")
                places = [ROOT / Path(*parts[:n]) for n in (len(parts), len(parts) - 1)]
                found = any(p.is_dir() or p.with_suffix(".py").is_file() for p in places)
                assert found, f"{path} names {dotted}"
