"""The walks of docs/architecture.md: every function that they list is passed, in that order."""

import re
import sys
import threading
from pathlib import Path

import pytest

from data_pipelines.prepare.run import prepare
from data_pipelines.prepare.settings import PrepareSettings
from mllm.training.train import train_mllm
from semhitok.main import main
from tests.codes import extract
from tests.mllm.tiny import World, picture

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALKS = {
    name: [line.split()[0] for line in lines.splitlines()]
    for name, lines in re.findall(r"```walk (\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
}
ROOTS = {str(ROOT / name) for name in ("data_pipelines", "tokenizer", "mllm", "semhitok")}


class Trace:
    """The functions of ours that are called inside the block, as `module.function`."""

    def __enter__(self) -> list[str]:
        self.calls: list[str] = []
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self.calls

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _note(self, frame, event, argument) -> None:
        code = frame.f_code
        if event == "call" and any(code.co_filename.startswith(root) for root in ROOTS):
            module = Path(code.co_filename).relative_to(ROOT).with_suffix("").as_posix()
            self.calls.append(f"{module.replace('/', '.')}.{code.co_qualname}")


def room(function: str) -> str:
    """The folder of a function's module."""
    parts = function.split(".")
    folder = ROOT
    for depth, part in enumerate(parts):
        folder /= part
        if not folder.is_dir():
            return ".".join(parts[:depth])
    raise AssertionError(function)


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> dict[str, list[str]]:
    root = tmp_path_factory.mktemp("walks")
    (root / "pictures").mkdir()
    picture("red", "bar").save(root / "pictures" / "a.png")
    (root / "pictures" / "a.txt").write_text("a red bar")
    traces = {}
    with Trace() as traces["prepare"]:
        prepare(PrepareSettings(sources=[f"folder:{root / 'pictures'}"], out=root / "data"))
    world = World(root / "world")
    with Trace() as traces["extract"]:
        extract(world.tokenizer, world.data, root / "codes")
    with Trace() as traces["batch"]:
        model = train_mllm(world.phase(root / "run", num_steps=1))
    words = ["generate", "--model", str(model), "--prompt", "a red bar", "--out", str(root / "out")]
    with Trace() as traces["drawing"]:
        assert main(words) == 0
    return traces


def test_there_are_three_walks_and_an_image_has_two_commands():
    assert list(WALKS) == ["prepare", "extract", "batch", "drawing"]


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_passes_its_functions_in_their_order(traces, name):
    calls = iter(traces[name])
    for function in WALKS[name]:
        assert function in calls, f"{function} is not called after what stands before it"


@pytest.mark.parametrize("name", ["prepare", "extract", "batch"])
def test_no_room_is_entered_twice_from_below(name):
    entered = [room(function) for function in WALKS[name]]
    entered = [
        here for here, before in zip(entered, [None, *entered], strict=False) if here != before
    ]
    assert max(entered.count(each) for each in entered) <= 2  # called once, returned to once


def test_from_a_prompt_to_a_png_it_is_at_most_eight_rooms():
    assert len({room(function) for function in WALKS["drawing"]}) <= 8


def test_an_image_is_decoded_once_for_its_pixels(traces):
    pictures = traces["extract"].count(
        "data_pipelines.loading.image_dataset.PreparedImages.__getitem__"
    )
    assert traces["extract"].count("data_pipelines.images.open_image") == pictures > 0
