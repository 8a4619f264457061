"""lmms-eval itself, with our model in it, beside our own scores."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_pipelines.loading.dataset import PreparedDataset
from eval.vqa import task as vqa
from eval.vqa.asking import Asking, message
from eval.vqa.scorers.task import BenchmarkQuestion
from eval.vqa.settings import VQASettings
from mllm.serving.answering import Answerer
from tests import processes
from tests.eval.conftest import summary_of
from tests.mllm.tiny import REPOSITORY, World, make_model

pytestmark = pytest.mark.slow

TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_visual: !function own.pictures
doc_to_text: !function own.text
doc_to_target: !function own.target
"""
GENERATION = """
generation_kwargs: {max_new_tokens: 6, until: ["zzz"]}
process_results: !function own.results
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""
CHOICE = """
doc_to_choice: !function own.choices
metric_list: [{metric: acc}]
"""
ROUNDS = """
generation_kwargs: {max_new_tokens: 6}
process_results: !function own.rounds_results
metric_list: [{metric: rounds, aggregation: mean, higher_is_better: true}]
"""
FUNCTIONS = """
def pictures(doc):
    return [doc["image"].convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None,
         previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    if round_idx == 2:
        return None, None, True, previous_output, None
    return [], "and " + doc["question"], False, previous_output, None


def target(doc):
    return doc["options"].index(doc["answer"]) if "options" in doc else doc["answer"]


def choices(doc):
    return doc["options"]


def results(doc, said):
    return {"right": float(said[0].lower().strip() == doc["answer"].lower().strip())}


def rounds_results(doc, said):
    answers = said[0] if isinstance(said[0], list) else said
    return {"rounds": float(len(answers))}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model, and questions of which it answers about two in three as asked of it."""
    import datasets

    root = tmp_path_factory.mktemp("lmms")
    world = World(root)
    from mllm.saved.load import load_processor

    make_model(world).save_pretrained(root / "model")
    load_processor(world.start).save_pretrained(root / "model")
    answerer = Answerer.load(root / "model", "cpu")
    data = PreparedDataset(world.data)
    rows = []
    for index in range(len(data)):
        record = data[index]
        for q in record.questions:
            place = len(rows)
            options = ["red", "green", "blue", "a bar"]
            image = {"bytes": record.image, "path": None}
            row = {"question_id": str(place), "question": q.question, "category": "random"}
            rows.append(row | {"image": image, "options": options})
    asking = Asking(max_new_tokens=6)
    from data_pipelines.images import open_image

    tokens = [answerer.image_tokens([open_image(r["image"]["bytes"])])[0] for r in rows]
    for row, image in zip(rows, tokens, strict=True):
        asked = message(BenchmarkQuestion("0", row["question"], ("",)), asking)
        prompt = answerer.prompt([{"role": "user", "content": asked}])
        (said,) = answerer.answer([prompt], [[image]], 6)
        weighed = answerer.loglikelihood([prompt] * 4, [[image]] * 4, row["options"])
        means = [w.log_likelihood / w.num_tokens for w in weighed]
        best = row["options"][means.index(max(means))]
        wrong = int(row["question_id"]) % 3 == 0
        row["said"] = "something else" if wrong else said.upper()
        row["choice"] = row["options"][0] if wrong else best
    for name, answer, more in (("open", "said", []), ("choice", "choice", ["options"])):
        keys = ["question_id", "question", "category", "image", *more]
        table = [{k: row[k] for k in keys} | {"answer": row[answer]} for row in rows]
        found = datasets.Dataset.from_list(table).cast_column("image", datasets.Image())
        found.to_parquet(str(root / f"{name}.parquet"))
    write_tasks(root)
    write_lines(root, rows)
    return root


def write_tasks(root: Path) -> None:
    tasks = root / "tasks"
    tasks.mkdir()
    (tasks / "own.py").write_text(FUNCTIONS)
    for name, file, kind, more in (
        ("own_open", "open", "generate_until", GENERATION),
        ("own_choice", "choice", "multiple_choice", CHOICE),
        ("own_rounds", "open", "generate_until_multi_round", ROUNDS),
    ):
        text = TASK.format(name=name, file=root / f"{file}.parquet", kind=kind) + more
        (tasks / f"{name}.yaml").write_text(text)


def write_lines(root: Path, rows: list[dict]) -> None:
    """The same questions as JSONL with image files, for our own scorer."""
    (root / "images").mkdir()
    lines: dict[str, list[dict]] = {"open": [], "choice": []}
    for row in rows:
        file = f"images/{row['question_id']}.png"
        (root / file).write_bytes(row["image"]["bytes"])
        line = {"id": row["question_id"], "image": file, "question": row["question"]}
        lines["open"].append(line | {"answers": [row["said"]]})
        lines["choice"].append(line | {"options": row["options"], "answer": row["choice"]})
    for name, entries in lines.items():
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        (root / f"{name}.jsonl").write_text(text)


# Two commands as a user types them, in one process: to import lmms-eval takes most of the time.
COMMANDS = """
import json, sys
from lmms_eval.__main__ import cli_evaluate
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["lmms_eval", *arguments]
    cli_evaluate()
"""


@pytest.fixture(scope="module")
def theirs(place) -> dict:
    """Results of lmms-eval by interface and task."""
    common = [
        "--model", "semhitok", "--model_args", f"pretrained={place / 'model'}", "--device", "cpu",
        "--include_path", str(place / "tasks"), "--batch_size", "5", "--output_path",
    ]  # fmt: skip
    commands = [
        [*common, str(place / "chat"), "--tasks", "own_open,own_rounds"],
        [*common, str(place / "simple"), "--tasks", "own_choice,own_rounds", "--force_simple"],
    ]
    environment = {
        "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "hf"),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "1",
    }  # fmt: skip
    finished = processes.run(
        "-c", COMMANDS, json.dumps(commands), environment=environment, folder=place
    )
    results = {}
    for name in ("chat", "simple"):
        files = list((place / name).rglob("*_results.json"))  # it exits with 0 whatever happens
        assert len(files) == 1, finished.stdout[-6000:] + finished.stderr[-6000:]
        results[name] = json.loads(files[0].read_text())["results"]
    return results


def test_lmms_eval_finds_the_model_by_its_entry_point():
    found = {entry.name: entry.value for entry in entry_points(group="lmms_eval.models")}
    assert found.get("semhitok") == "eval.lmms_eval_plugin:manifest", "run `make install` again"


def evaluated(place, file, **settings):
    """The summary of our own evaluation of a file."""
    task, out = str(place / file), place / f"ours-{file}"
    vqa.evaluate(VQASettings(model=place / "model", task=task, out=out, batch_size=5, **settings))
    return summary_of(out)


def test_lmms_eval_scores_answers_as_we_do(place, theirs):
    ours = evaluated(place, "open.jsonl", max_new_tokens=6)
    assert theirs["chat"]["own_open"]["right,none"] == ours["overall"]["accuracy"]
    assert 0.5 < ours["overall"]["accuracy"] < 0.8  # two in three by construction


def test_lmms_eval_weighs_options_as_we_do(place, theirs):
    ours = evaluated(place, "choice.jsonl", answer_by="texts")
    assert theirs["simple"]["own_choice"]["acc,none"] == ours["overall"]["accuracy"]
    assert 0.5 < ours["overall"]["accuracy"] < 1


@pytest.mark.parametrize("interface", ["chat", "simple"])
def test_lmms_eval_asks_several_rounds(theirs, interface):
    # a second question, then the task says that it ends
    assert theirs[interface]["own_rounds"]["rounds,none"] == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [({}, "pretrained is missing"), ({"pretrained": "x", "beams": 2}, "there is no beams")],
)
def test_wrong_model_args_are_one_sentence(arguments, complaint):
    from eval.lmms_eval_plugin import SemHiTok
    from runtime.errors import UserError

    with pytest.raises(UserError, match=complaint):
        SemHiTok(**arguments)


def test_videos_are_refused_and_stop_strings_cut():
    from eval import lmms_eval_plugin as plugin
    from runtime.errors import UserError

    video = [{"role": "user", "content": [{"type": "video", "url": "x"}]}]
    with pytest.raises(UserError, match="this task has video"):
        plugin._conversation(video)
    picture = Image.new("L", (4, 4))
    content = [{"type": "image", "url": picture}, {"type": "text", "text": "what <image>?"}]
    said, pictures = plugin._conversation([{"role": "user", "content": content}])
    assert said == [{"role": "user", "content": "<image>what ?"}] and pictures == [picture]
    assert plugin._cut("red\nblue", ["\n"]) == "red" and plugin._cut("red", "x") == "red"


def test_pictures_of_every_kind_go_the_way_of_files():
    from eval.lmms_eval_plugin import SemHiTok, _Picture

    plugin = object.__new__(SemHiTok)
    plugin.answerer = SimpleNamespace(image_tokens=lambda images: images)
    pictures = {
        (255, 255, 255): Image.new("RGBA", (4, 4), (0, 0, 0, 0)),  # shown, it is white
        (128, 128, 128): Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)),
        (7, 7, 7): Image.new("L", (4, 4), 7),
    }
    found = plugin._tokens([_Picture(picture) for picture in pictures.values()])
    assert [image.getpixel((0, 0)) for image in found] == list(pictures)
