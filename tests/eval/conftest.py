"""Stand-ins for the trained models, so that evaluation is tested on real images in seconds."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from data_pipelines.images import open_image, resize_and_crop, to_tensor
from data_pipelines.sources.easy_vqa import read_rows
from data_pipelines.sources.easy_vqa_shapes import PALETTE
from eval.drawing import task as drawing
from eval.drawing.settings import GenerationSettings
from eval.reconstruction import task as reconstruction
from eval.reconstruction.settings import ReconstructionSettings
from eval.vqa import task as vqa
from eval.vqa.answering import SavedAnswer
from eval.vqa.settings import VQASettings
from mllm.model.sampler import Sampler

NUM_IMAGES = 40
FAKE_CONFIG = SimpleNamespace(image_sampler={"guidance_scale": 5.0, "top_k": 40})
LEVELS = 4  # of each colour channel in the fake tokenizer's semantic code


class FakeDataset:
    """The first images of a split of easy-VQA, with the surface of `PreparedDataset`."""

    fingerprint = "fabricated"

    def __init__(self, path: Path, images_only: bool = False):
        split = "train" if Path(path).name == "train" else "test"
        self._records = [read_rows(split).read(index).record for index in range(NUM_IMAGES)]

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return self._records[index]

    def texts(self):
        return iter(self._records)

    def image_tensor(self, index, size):
        return to_tensor(resize_and_crop(open_image(self._records[index].image), size))


class FakeTokenizer(torch.nn.Module):
    """Codes an 8×8 patch by its mean colour, so decoding gives a mosaic of the image."""

    def __init__(self, folder):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(
            image_size=64,
            num_semantic_codes=LEVELS**3,
            num_pixel_codes=4,
            use_enhance_decoder=True,
        )

    def encode(self, images):
        means = F.avg_pool2d((images + 1) / 2, 8)
        levels = (means * LEVELS).long().clamp(max=LEVELS - 1)
        semantic = (levels[:, 0] * LEVELS + levels[:, 1]) * LEVELS + levels[:, 2]
        brightness = (means.mean(1) * 16).long() % 4
        return SimpleNamespace(semantic=semantic.flatten(1), pixel=brightness.flatten(1))

    def decode(self, codes):
        codes = codes.semantic.view(-1, 8, 8)
        channels = [codes // LEVELS**2, codes // LEVELS % LEVELS, codes % LEVELS]
        colours = (torch.stack(channels, dim=1) + 0.5) / LEVELS * 2 - 1
        return F.interpolate(colours, scale_factor=8, mode="bilinear")


def fake_answers(model_dir, found, asking, out_dir, batch_size, ranks):
    """Right answers, except that one in seven says "yes"."""
    return {
        q.question_id: SavedAnswer("yes" if place % 7 == 0 else q.answers[0])
        for place, q in enumerate(found.questions)
    }


def fake_drawings(model, processor, prompts, seeds, sampler, batch_size):
    """What the prompt says, except that every fifth seed draws a circle, and every 24th nothing.

    Without a choice among candidates every second drawing is of the prompt before.
    """
    if sampler.num_candidates == 1:
        prompts = [prompts[i - i % 2 * 8] for i in range(len(prompts))]
    yield from map(_drawing, prompts, seeds)


def _drawing(prompt, seed):
    _, colour, shape = prompt.split()
    image = Image.new("RGB", (64, 64), (240, 250, 235))
    draw = ImageDraw.Draw(image)
    if seed % 5 == 0:
        shape = "circle"
    if seed % 24 == 23:
        return image
    if shape == "circle":
        draw.ellipse((14, 12, 48, 46), fill=PALETTE[colour])
    elif shape == "rectangle":
        draw.rectangle((10, 20, 50, 44), fill=PALETTE[colour])
    else:
        draw.polygon([(32, 10), (10, 50), (54, 50)], fill=PALETTE[colour])
    return image


@contextmanager
def stand_ins():
    """Replace the data set, the tokenizer and the language model by the stand-ins above."""
    model = SimpleNamespace(config=FAKE_CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        for user in ("measures.image_source", "vqa.task", "vqa.benchmarks.load"):
            patch.setattr(f"eval.{user}.PreparedDataset", FakeDataset)
        patch.setattr("eval.reconstruction.task.load_tokenizer", FakeTokenizer)
        patch.setattr("eval.vqa.task.answer_questions", fake_answers)
        for user in ("reconstruction.task", "vqa.task", "drawing.easy_vqa"):
            patch.setattr(f"eval.{user}.model_fingerprint", lambda folder: "fabricated")
        patch.setattr("eval.drawing.easy_vqa.draw", fake_drawings)
        patch.setattr("eval.drawing.easy_vqa.load_for_inference", lambda folder: (model, None))
        yield


@pytest.fixture
def fake_models():
    with stand_ins():
        yield


def make_folders(root: Path) -> None:
    """The folders that the stand-ins stand for, with nothing in them but what settings look at."""
    for name in ("decoder", "mllm"):
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text("{}")
    for name in ("train", "test"):
        (root / "data" / name).mkdir(parents=True)
        (root / "data" / name / "manifest.json").write_text("{}")


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


class Evaluations:
    """Runs the evaluations on the folders of `make_folders`; each returns its summary."""

    def __init__(self, root: Path):
        self.root = root
        make_folders(root)

    def reconstruction(self, out: Path, **settings) -> dict:
        common = {"tokenizer": self.root / "decoder", "data": str(self.root / "data" / "test")}
        return summary_of(
            reconstruction.evaluate(ReconstructionSettings(**(common | settings), out=out))
        )

    def vqa(self, out: Path, **settings) -> dict:
        common = {"model": self.root / "mllm", "data": str(self.root / "data" / "test")}
        return summary_of(vqa.evaluate(VQASettings(**(common | settings), out=out)))

    def drawing(self, out: Path, sampler: dict | None = None, **settings) -> dict:
        options = Sampler(**(sampler or {}))
        chosen = GenerationSettings(model=self.root / "mllm", sampler=options, out=out, **settings)
        return summary_of(drawing.evaluate(chosen))


@pytest.fixture
def evaluations(tmp_path_factory, fake_models):
    return Evaluations(tmp_path_factory.mktemp("stand-ins"))


RECIPE = {
    "title": "Quickstart",
    "targets": {"vqa.accuracy": 0.9, "reconstruction.psnr": 26.0},
    "limits": {"seconds": 600.0},
    "steps": {
        phase: {"run": f"train {phase}", "out": f"${{out}}/{phase}"}
        for phase in ("teacher", "semantic", "pixel", "decoder", "mllm")
    }
    | {
        f"eval-{name}": {"run": f"eval {name}", "out": f"${{out}}/eval/{name}"}
        for name in ("reconstruction", "vqa", "generation")
    },
}


@pytest.fixture(scope="session")
def fabricated_run(tmp_path_factory):
    """A recipe's folder with every part that a report reads; only to be copied."""
    run = tmp_path_factory.mktemp("fabricated") / "run"
    with stand_ins():
        made = Evaluations(tmp_path_factory.mktemp("stand-ins"))
        made.reconstruction(run / "eval" / "reconstruction", batch_size=16)
        made.vqa(run / "eval" / "vqa", batch_size=16)
        made.drawing(run / "eval" / "generation", {"guidance_scale": 3.0}, seeds=2, batch_size=8)
    for phase in ("teacher", "semantic", "pixel", "decoder", "mllm"):
        (run / phase).mkdir()
        lines = [
            {"step": s, "loss": 2.0 / s, "l1_loss": 1 / s, "learning_rate": 1e-3}
            for s in range(10, 310, 10)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / phase / "metrics.jsonl").write_text(text)
    (run / "environment.json").write_text('{"python": "3.11", "packages": {"torch": "2.13"}}')
    (run / "config.yaml").write_text(json.dumps(RECIPE))
    (run / "timings.json").write_text('{"teacher": 61.2, "semantic": 20.0}')
    return run


@pytest.fixture
def finished_run(fabricated_run, tmp_path):
    """A copy of the fabricated run that a test may change."""
    return Path(shutil.copytree(fabricated_run, tmp_path / "run"))
