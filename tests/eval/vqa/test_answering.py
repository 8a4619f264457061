"""Answering benchmarks: batches, likelihoods, kills, ranks, and answers scored again."""

import html
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from data_pipelines.loading.dataset import PreparedDataset
from eval.vqa import task as vqa
from eval.vqa.answering import WINDOW, AnswerStore, SavedAnswer, part_of_rank
from eval.vqa.asking import Asking, message
from eval.vqa.benchmarks.load import open_benchmark
from eval.vqa.predictions import match, read_predictions
from eval.vqa.scorers.task import BenchmarkQuestion
from eval.vqa.scorers.tasks import TASKS
from eval.vqa.settings import VQASettings
from mllm.saved.load import load_processor
from mllm.serving.answering import Answerer, plan_batches
from runtime.errors import UserError
from runtime.resume import run_lock
from semhitok import main as cli
from tests.mllm.tiny import World, launch, make_model, picture
from tests.prepared import prepare_sources
from tests.processes import Forked


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tiny model, and its 36 questions as JSONL with options."""
    root = tmp_path_factory.mktemp("answering")
    world = World(root)
    make_model(world).save_pretrained(root / "model")
    load_processor(world.start).save_pretrained(root / "model")
    data, lines = PreparedDataset(world.data), []
    for index in range(len(data)):
        record = data[index]
        (root / f"{index}.png").write_bytes(record.image)
        for q in record.questions:
            options = ["red", "green", "a blue box"]
            line = {"image": f"{index}.png", "question": q.question, "id": q.question_id}
            lines.append(line | {"options": options, "answer": "ABC"[len(lines) % 3]})
    (root / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="module")
def answerer(place) -> Answerer:
    return Answerer.load(place / "model", "cpu")


def evaluate(place: Path, out: Path, *more: str) -> int:
    arguments = ["eval", "vqa", "--model", str(place / "model"), "--task", str(place / "own.jsonl")]
    return cli.main([*arguments, "--max-new-tokens", "4", "--out", str(out), *more])


def evaluate_prepared(place: Path, out: Path, **settings) -> dict:
    data = str(World(place).data)
    vqa.evaluate(VQASettings(model=place / "model", data=data, out=out, **settings))
    return summary(out)


def stored(out: Path) -> list[dict]:
    files = sorted((out / "answers").glob("rank-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def predictions(out: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    return {row["question_id"]: row["prediction"] for row in rows}


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """An evaluation in one go."""
    out = place / "whole"
    assert evaluate(place, out, "--batch-size", "4") == 0
    return out


def test_a_summary_says_what_was_measured_and_how(whole, place):
    found = summary(whole)
    assert found["num_questions"] == 36 and found["num_images"] == 12
    assert found["task"] == "option" and found["rule"] == TASKS["option"].rule
    assert found["decoding"] == "greedy, at most 4 new tokens" and found["seed"] is None
    config = json.loads((place / "model" / "config.json").read_text())
    assert found["image_resolution"] == config["image_tokenizer_config"]["image_size"] > 0
    assert len(found["checkpoint_fingerprint"]) == len(found["questions_fingerprint"]) == 64
    assert set(found["code"]) == {"commit", "dirty"}
    assert found["model"] == str(place / "model") and found["data"] == str(place / "own.jsonl")
    assert found["overall"]["num_questions"] == 36 and len(found["overall"]["interval"]) == 2
    assert {"question_only_baseline", "yes_no_share"} <= set(found)


def test_answers_are_those_of_asking_one_by_one(whole, place, answerer):
    found = open_benchmark(TASKS["option"], str(place / "own.jsonl"))
    asking = Asking(instruction=TASKS["option"].instruction, max_new_tokens=4)
    said = predictions(whole)
    assert len(set(said.values())) > 3  # the model says different things
    from data_pipelines.images import open_image

    for question in found.questions[::7]:
        prompt = answerer.prompt([{"role": "user", "content": message(question, asking)}])
        image = answerer.image_tokens([open_image(question.images[0])])
        assert answerer.answer([prompt], [[image[0]]], 4) == [said[question.question_id]]


def test_every_question_of_a_prepared_folder_is_answered(place, answerer, tmp_path):
    evaluate_prepared(place, tmp_path / "out", batch_size=7)
    rows = read_predictions(tmp_path / "out")
    assert len(rows) == 36
    assert len({row["question_id"] for row in rows}) == 36
    assert set(rows[0]) >= {"question_id", "image_id", "question", "answers", "prediction"}
    colour, shape, _ = rows[0]["image_id"].split("-")
    one = answerer.ask([picture(colour, shape)], [rows[0]["question"]])
    assert rows[0]["prediction"] == one[0]


def test_a_likelihood_is_the_sum_of_the_tokens_log_probabilities(answerer):
    prompts = [
        answerer.prompt([{"role": "user", "content": text}])
        for text in ("<image>what color is it?", "<image>is it not a blue box, or is it?")
    ]
    images = [list(answerer.image_tokens([picture("red", "bar")])) for _ in prompts]
    weighed = answerer.loglikelihood(prompts, images, ["red", "a blue box"])
    assert weighed[0].num_tokens < weighed[1].num_tokens
    for prompt, image, text, found in zip(
        prompts, images, ["red", "a blue box"], weighed, strict=True
    ):
        ending = answerer.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([prompt + ending])
        places = ids == answerer.model.config.image_token_id
        ids = ids.masked_scatter(places, image[0])
        with torch.no_grad():
            logits = answerer.model(input_ids=ids).logits[0, :, : answerer.model.vocabulary.offset]
        scores = logits.log_softmax(-1)
        start = len(prompt) - 1
        expected = sum(float(scores[start + i, token]) for i, token in enumerate(ending))
        assert found.log_likelihood == pytest.approx(expected, abs=1e-4)
        greedy = [int(scores[start + i].argmax()) for i in range(len(ending))] == ending
        assert found.is_greedy == greedy


@pytest.mark.parametrize("answer_by", ["letters", "texts"])
def test_options_are_chosen_by_likelihood(place, tmp_path, answer_by):
    assert evaluate(place, tmp_path, "--answer-by", answer_by) == 0
    for row in stored(tmp_path):
        scores = row["option_scores"]
        assert len(scores) == 3 and row["prediction"] == "ABC"[scores.index(max(scores))]
    assert "likeliest" in summary(tmp_path)["decoding"]
    saved = [json.loads(x) for x in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert all(row["option_scores"] for row in saved)


def test_circular_asks_every_rotation(place, tmp_path):
    assert evaluate(place, tmp_path, "--circular", "--answer-by", "letters") == 0
    assert summary(tmp_path)["num_questions"] == 3 * 36


def test_a_finished_evaluation_is_not_asked_again(whole, place, monkeypatch):
    monkeypatch.setattr("eval.vqa.answering.Answerer", None)  # loading a model would fail
    before = summary(whole)
    assert evaluate(place, whole, "--batch-size", "4") == 0
    assert summary(whole) == before


def test_what_a_killed_run_left_is_gone_on_with(whole, place, tmp_path):
    """As a kill leaves it: some batches whole, one line torn."""
    (tmp_path / "answers").mkdir()
    for name in ("evaluation.json", "rank-00000.jsonl"):
        data = (whole / "answers" / name).read_bytes()
        (tmp_path / "answers" / name).write_bytes(data)
    path = tmp_path / "answers" / "rank-00000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:14]) + lines[14][:-9])
    assert evaluate(place, tmp_path, "--batch-size", "4") == 0
    assert predictions(tmp_path) == predictions(whole)
    assert summary(tmp_path)["overall"] == summary(whole)["overall"]
    keys = [row["question_id"] for row in stored(tmp_path)]
    assert len(keys) == len(set(keys)) == 36


@pytest.mark.slow
def test_sigkill_in_the_middle_and_resume_give_the_same_score(whole, place, tmp_path):
    """A real kill of a run that waits for it once its second batch is on the disk."""
    script = (
        "import sys, time\n"
        "from eval.vqa.answering import AnswerStore\n"
        "append, batches = AnswerStore.append, []\n"
        "def until_killed(*arguments):\n"
        "    append(*arguments)\n"
        "    batches.append(1)\n"
        "    while len(batches) == 2:\n"
        "        time.sleep(1)\n"
        "AnswerStore.append = until_killed\n"
        "from semhitok import main as cli\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = [
        "eval", "vqa", "--model", str(place / "model"), "--task", str(place / "own.jsonl"),
        "--max-new-tokens", "4", "--batch-size", "4", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    process = Forked(["-c", script, *arguments])
    answers = tmp_path / "out" / "answers" / "rank-00000.jsonl"
    try:
        while not (answers.is_file() and answers.read_bytes().count(b"\n") >= 8):
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    assert answers.read_bytes().count(b"\n") == 8  # in the middle
    assert not (tmp_path / "out" / "summary.json").exists()

    assert evaluate(place, tmp_path / "out", "--batch-size", "4") == 0
    assert predictions(tmp_path / "out") == predictions(whole)
    assert summary(tmp_path / "out")["overall"] == summary(whole)["overall"]
    keys = [row["question_id"] for row in stored(tmp_path / "out")]
    assert len(keys) == len(set(keys)) == 36


@pytest.mark.slow
def test_two_ranks_answer_as_one_does(whole, place, tmp_path):
    finished = launch(
        2, "eval", "vqa", "--model", str(place / "model"), "--task", str(place / "own.jsonl"),
        "--max-new-tokens", "4", "--batch-size", "4", "--out", str(tmp_path),
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("questions right") == 1
    assert predictions(tmp_path) == predictions(whole)
    assert summary(tmp_path)["overall"] == summary(whole)["overall"]
    assert summary(tmp_path)["num_ranks"] == 2
    shares = [
        len((tmp_path / "answers" / f"rank-0000{rank}.jsonl").read_text().splitlines())
        for rank in (0, 1)
    ]
    assert sum(shares) == 36 and min(shares) > 8


def test_batches_hold_every_place_once_and_like_lengths_together():
    lengths = [(7 * i) % 23 for i in range(1000)]
    batches = plan_batches(lengths, 8, WINDOW)
    assert sorted(place for batch in batches for place in batch) == list(range(1000))
    assert all(len(batch) <= 8 for batch in batches)
    spread = sum(max(lengths[p] for p in b) - min(lengths[p] for p in b) for b in batches)
    assert spread / len(batches) < 3  # of 22
    # A batch's places are near one another, and so are its images.
    assert all(max(batch) - min(batch) < 128 for batch in batches)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_parts_of_ranks_hold_every_batch_once(world_size):
    parts = [part_of_rank(20, rank, world_size) for rank in range(world_size)]
    assert [index for own in parts for index in own] == list(range(20))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--batch-size", "5"], "batch_size differs"),
        (["--instruction", "Say:"], "instruction differs"),
        (["--answer-by", "texts"], "asking, instruction differ"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_answers_of_another_evaluation_are_not_mixed(
    whole, place, tmp_path, capsys, more, what, finished
):
    out = shutil.copytree(whole, tmp_path / "out")
    if not finished:
        (out / "summary.json").unlink()
    before = contents(out)
    first = [] if "--batch-size" in more else ["--batch-size", "4"]
    assert evaluate(place, out, *first, *more) == 2
    said = capsys.readouterr().err
    if finished:
        key = more[0].strip("-").replace("-", "_")
        assert f"was written by a run with another {key}" in said
        assert f"name another --out, or delete {out}" in said
    else:
        assert what in said and "holds answers of another evaluation" in said
        assert "give another --out" in said
    assert contents(out) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_evaluation_into_a_folder_in_use_is_refused_and_the_first_goes_on(
    place, tmp_path, capsys
):
    with run_lock(tmp_path):
        assert evaluate(place, tmp_path, "--batch-size", "4") == 2
        assert f"another run (process {os.getpid()} on" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_damaged_line_and_a_double_answer_are_refused(tmp_path):
    store = AnswerStore(tmp_path)
    store.open({})
    store.append(0, {"a": SavedAnswer("yes"), "b": SavedAnswer("no")})
    store.append(1, {"a": SavedAnswer("yes")})
    with pytest.raises(UserError, match="question 'a' is answered twice"):
        store.read()
    (store.folder / "rank-00001.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"line 1 of .*rank-00001\.jsonl is damaged"):
        store.read()


def test_a_report_stands_beside_the_scores_with_wrong_answers_first(whole):
    page, text = ((whole / f"report.{kind}").read_text() for kind in ("html", "md"))
    found = summary(whole)
    accuracy = f"{found['overall']['accuracy']:.1%}"
    for content in (page, text):
        assert accuracy in content and "What that is worth" in content
        assert "the question alone" in content and found["rule"] in html.unescape(content)
        assert found["questions_fingerprint"] in content
    assert "✗ wrong" in page
    if "✓ right" in page:
        assert page.index("✗ wrong") < page.index("✓ right")
    assert 'src="http' not in page and "data:image/" in page


# Predictions that are there already.


def rescored(path: Path, task: str, *more: str) -> int:
    return cli.main(["eval", "vqa", "--predictions", str(path), "--task", task, *more])


def test_predictions_are_scored_again_without_a_model(whole):
    assert rescored(whole / "predictions.jsonl", "option") == 0
    again = summary(whole / "scored-option")
    before = summary(whole)
    for key in ("overall", "by_type", "figures", "question_only_baseline", "model",
                "checkpoint_fingerprint", "decoding", "questions_fingerprint"):  # fmt: skip
        assert again[key] == before[key], key
    assert again["predictions"].endswith("predictions.jsonl")


def test_questions_given_for_saved_predictions_are_named_in_place_of_their_own(
    whole, place, tmp_path
):
    copy = tmp_path / "same.jsonl"
    copy.write_text((place / "own.jsonl").read_text())
    arguments = ["--data", str(copy), "--out", str(tmp_path / "out")]
    assert rescored(whole, "option", *arguments) == 0
    found = summary(tmp_path / "out")
    assert found["data"] == str(copy) and found["model"] == str(place / "model")
    assert found["questions_fingerprint"] == summary(whole)["questions_fingerprint"]


def test_the_results_of_a_model_are_not_replaced_by_scoring_them_again(whole, capsys):
    before = {path: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    for path in (whole, whole / "predictions.jsonl"):
        assert rescored(path, "option", "--out", str(whole)) == 2
        assert "name another --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_the_baseline_of_predictions_counts_the_training_set_given(place, tmp_path):
    evaluate_prepared(place, tmp_path / "out", batch_size=7)
    train = str(World(place).data)
    assert rescored(tmp_path / "out", "easy-vqa", "--train-data", train) == 0
    found = summary(tmp_path / "out" / "scored-easy-vqa")
    assert found["question_only_baseline_counted_on"] == train


def test_another_rule_that_does_not_fit_is_refused(whole, capsys):
    assert rescored(whole, "vqav2") == 2
    assert "has 1 answers where the rule takes exactly 10" in capsys.readouterr().err


def other_system(tmp_path: Path, rows: list[dict], as_list: bool = False) -> Path:
    path = tmp_path / ("answers.json" if as_list else "answers.jsonl")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(json.dumps(rows) if as_list else lines)
    return path


@pytest.fixture
def gqa_file(tmp_path) -> Path:
    questions = {
        str(i): {"question": "?", "imageId": "n", "answer": "yes", "types": {"structural": "query"}}
        for i in range(4)
    }
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(questions))
    return path


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(
    ("id_name", "answer_name"),
    [("question_id", "answer"), ("questionId", "prediction"), ("id", "text")],
)
def test_answers_of_other_systems_are_scored(tmp_path, gqa_file, as_list, id_name, answer_name):
    said = ["yes", "Yes.", "no", "yes"]
    rows = [{id_name: i, answer_name: text} for i, text in enumerate(said)]
    path = other_system(tmp_path, rows, as_list)
    assert rescored(path, "gqa", "--data", str(gqa_file), "--out", str(tmp_path / "out")) == 0
    found = summary(tmp_path / "out")
    assert found["overall"]["accuracy"] == 0.75 and found["figures"]["open_accuracy"] == 0.75
    assert found["decoding"] == "not known: answers of another system"
    assert not (tmp_path / "out" / "examples.jsonl").exists()


ROWS = [{"question_id": str(i), "answer": "yes"} for i in range(4)]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (ROWS[:3], "1 of 4 questions of .* have no prediction in .*'3'; all must be answered"),
        ([*ROWS, {"question_id": "9", "answer": "no"}], "1 of 5 predictions .* are of questions"),
        ([{"question_id": f"x{i}", "answer": "no"} for i in range(4)], "4 of 4 predictions"),
        ([*ROWS, ROWS[0]], "more than one prediction, such as '0'"),
        ([{"question_id": "0"}], "prediction 1 of .* has no answer under any of the names"),
        ([{"question_id": "0", "answer": 3}], "the answer of prediction 1 .* is not a text"),
        ([{"question_id": "0", "answer": None}], "is not a text"),
        ([{"answer": "yes"}] * 3, "3 predictions without ids, and .* 4 questions"),
        ([*ROWS[:3], {"answer": "yes"}], "prediction 4 of .* has no id"),
        ([], "holds no predictions, so there is nothing to score"),
        (["yes"], "has no answer under any of the names"),
    ],
)
def test_predictions_that_do_not_match_are_one_sentence(
    tmp_path, gqa_file, capsys, rows, complaint
):
    path = other_system(tmp_path, rows)
    assert rescored(path, "gqa", "--data", str(gqa_file), "--out", str(tmp_path / "out")) == 2
    import re

    assert re.search(complaint, capsys.readouterr().err)
    assert not (tmp_path / "out" / "summary.json").exists()


def pope_file(folder: Path, split: str, objects: list[str]) -> Path:
    """A file of POPE; ids start at 1 in each split."""
    rows = [
        {"question_id": i, "image": "a.png", "text": f"Is there a {name} in the image?",
         "label": "no" if i % 2 else "yes"}
        for i, name in enumerate(objects, start=1)
    ]  # fmt: skip
    path = folder / f"coco_pope_{split}.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("name", ["question", "prompt"])
def test_answers_to_another_split_are_refused_though_their_ids_fit(
    tmp_path, capsys, with_ids, name
):
    random = pope_file(tmp_path, "random", ["dog", "car", "tie"])
    popular = pope_file(tmp_path, "popular", ["dog", "person", "tie"])
    rows = [
        {name: f"<image>\nIs there a {thing} in the image? Answer yes or no.", "text": "yes"}
        | ({"question_id": i} if with_ids else {})
        for i, thing in enumerate(["dog", "car", "tie"], start=1)
    ]
    path = other_system(tmp_path, rows)
    assert rescored(path, "pope", "--data", str(random), "--out", str(tmp_path / "out")) == 0
    assert summary(tmp_path / "out")["num_questions"] == 3
    assert rescored(path, "pope", "--data", str(popular), "--out", str(tmp_path / "no")) == 2
    said = capsys.readouterr().err
    assert "1 of 3 predictions" in said and "prediction 2 answers" in said
    assert "give the split that they answer" in said
    assert not (tmp_path / "no").exists()


def test_an_answer_is_not_mistaken_for_the_truth_beside_it(tmp_path, gqa_file, capsys):
    """MMMU's own output has "answer", the truth, beside "response"."""
    rows = [{"id": i, "answer": "yes", "response": "no"} for i in range(4)]
    path = other_system(tmp_path, rows)
    assert rescored(path, "gqa", "--data", str(gqa_file), "--out", str(tmp_path / "out")) == 0
    assert summary(tmp_path / "out")["overall"]["accuracy"] == 0
    for names in ({"answer", "text"}, {"pred", "response"}):
        rows = [{"id": i} | dict.fromkeys(names, "yes") for i in range(4)]
        path = other_system(tmp_path, rows)
        assert rescored(path, "gqa", "--data", str(gqa_file), "--out", str(tmp_path / "no")) == 2
        assert "call the model's answer 'prediction'" in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


def test_one_object_of_id_to_answer_is_read_as_mmmu_publishes_it(tmp_path, gqa_file):
    path = tmp_path / "total_val_output.json"
    path.write_text(json.dumps({"0": "yes", "1": "no", "2": "no", "3": "yes"}, indent=4))
    assert rescored(path, "gqa", "--data", str(gqa_file), "--out", str(tmp_path / "out")) == 0
    assert summary(tmp_path / "out")["overall"]["accuracy"] == 0.5


def test_answers_without_questions_need_the_file(tmp_path, capsys):
    path = other_system(tmp_path, ROWS)
    assert rescored(path, "gqa", "--out", str(tmp_path / "out")) == 2
    assert "give the benchmark's file with --data" in capsys.readouterr().err


def test_popes_ids_may_be_told_apart_by_category_or_order(tmp_path):
    rows = [
        {"question_id": i, "category": split, "answer": f"{split} {i}"}
        for split in ("random", "popular")
        for i in (1, 2)
    ]
    questions = [
        BenchmarkQuestion(f"{r['category']}-{r['question_id']}", "?", ("yes",)) for r in rows
    ]
    from eval.vqa.benchmarks.question_set import QuestionSet

    found = QuestionSet("here", questions)
    path = other_system(tmp_path, rows)
    expected = {q.question_id: q.question_id.replace("-", " ") for q in questions}
    assert match(read_predictions(path), found, path) == expected
    path = other_system(tmp_path, [{"answer": row["answer"]} for row in rows])
    assert match(read_predictions(path), found, path) == expected


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--task", "vqa3"], "no task is called 'vqa3'; choose one of easy-vqa, vqav2"),
        (["--task", "nowhere.jsonl"], "no such file: nowhere.jsonl"),
        (["--task", "pope", "--data", "@nowhere/x.json"], "no such file or folder"),
        (["--task", "pope"], "cannot be loaded from the hub"),
        (["--task", "exact"], "needs --data"),
        ([], "needs --data"),
        (["--task", "@own.jsonl", "--data", "@own.jsonl"], "--data cannot name another"),
        (["--task", "gqa", "--scoring", "soft"], "--scoring is for files of one's own"),
        (["--task", "@own.jsonl", "--scoring", "soft"], "takes exactly 10"),
        (["--task", "@own.jsonl", "--images", "@model"], "12 of 12 images"),
    ],
)
def test_commands_that_cannot_work_are_one_sentence(place, tmp_path, capsys, arguments, complaint):
    filled = [text.replace("@", f"{place}/") for text in arguments]
    model = ["--model", str(place / "model"), "--out", str(tmp_path / "out")]
    assert cli.main(["eval", "vqa", *model, *filled]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out" / "answers").exists()


def test_a_model_needs_a_folder_to_write(place, capsys):
    arguments = ["--model", str(place / "model"), "--task", str(place / "own.jsonl")]
    assert cli.main(["eval", "vqa", *arguments]) == 2
    assert "need --out" in capsys.readouterr().err


def test_a_broken_image_stops_the_evaluation_and_is_named(place, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"not an image")
    line = {"image": "a.png", "question": "what?", "answer": "x"}
    (tmp_path / "own.jsonl").write_text(json.dumps(line) + "\n")
    model = ["--model", str(place / "model"), "--out", str(tmp_path / "out")]
    assert cli.main(["eval", "vqa", *model, "--task", str(tmp_path / "own.jsonl")]) == 2
    assert "the image a.png of question 1" in capsys.readouterr().err
    assert not (tmp_path / "out" / "summary.json").exists()


def test_marks_of_images_stand_where_the_question_names_them():
    def asked(text, images, **more):
        question = BenchmarkQuestion("0", text, ("A",), images=(b"",) * images, **more)
        return message(question, Asking(instruction="Answer."))

    assert asked("What?", 1) == "<image>What?\nAnswer."
    assert asked("In <image 2> as in <image 1> and <image 2>?", 2) == (
        "In <image> as in <image> and image 2?\nAnswer."
    )
    assert asked("What?", 2) == "<image><image>What?\nAnswer."
    assert asked("Is <image> it?", 2) == "<image><image>Is  it?\nAnswer."  # marks do not fit
    assert asked("What?", 1, options=("x", "y")) == "<image>What?\nA. x\nB. y\nAnswer."


def test_evaluate_keeps_its_ways_for_prepared_data(place, tmp_path):
    found = evaluate_prepared(place, tmp_path, batch_size=16)
    assert found["num_questions"] == 36 and found["task"] == "easy-vqa"
    assert found["data_fingerprint"] == PreparedDataset(place / "data").fingerprint
    assert (tmp_path / "examples.jsonl").is_file()


# Inputs of real people.


@pytest.mark.parametrize("form", ["lines", "list", "object"])
def test_predictions_may_begin_with_a_byte_order_mark(tmp_path, gqa_file, form):
    path = tmp_path / "said.json"
    rows = [{"question_id": str(i), "answer": "yes"} for i in range(4)]
    text = {
        "lines": "\n".join(map(json.dumps, rows)),
        "list": json.dumps(rows),
        "object": json.dumps({row["question_id"]: "yes" for row in rows}),
    }[form]
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert rescored(path, "gqa", "--data", str(gqa_file), "--out", str(tmp_path / "out")) == 0
    assert summary(tmp_path / "out")["overall"]["accuracy"] == 1


def test_a_question_twice_in_one_object_is_refused(tmp_path, gqa_file, capsys):
    path = tmp_path / "said.json"
    path.write_text('{"0": "yes", "1": "no", "2": "no", "3": "yes", "0": "no"}')
    assert rescored(path, "gqa", "--data", str(gqa_file), "--out", str(tmp_path / "out")) == 2
    assert "more than one prediction, such as '0'" in capsys.readouterr().err


def test_ids_compare_in_one_unicode_form(tmp_path):
    questions = {"K\u00f6ln": {"question": "?", "imageId": "n", "answer": "yes"}}
    (tmp_path / "q.json").write_text(json.dumps(questions))
    path = other_system(tmp_path, [{"id": "Ko\u0308ln", "prediction": "yes"}])
    out = tmp_path / "out"
    assert rescored(path, "gqa", "--data", str(tmp_path / "q.json"), "--out", str(out)) == 0
    assert list(predictions(out)) == ["K\u00f6ln"]


def test_a_file_called_like_a_benchmark_does_not_take_its_place(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gqa").write_text("{}")
    settings = VQASettings(model=place / "model", task="gqa", out=tmp_path / "out")
    assert not settings.is_own_file


def test_a_question_that_is_too_long_is_named_before_the_first_answer(place, tmp_path, capsys):
    lines = (place / "own.jsonl").read_text().splitlines()
    long = json.loads(lines[-1]) | {"question": "what is it? " * 2000, "id": "the long one"}
    file = place / "long.jsonl"
    file.write_text("\n".join([*lines[:-1], json.dumps(long)]))
    for more in ([], ["--answer-by", "texts"]):
        model = ["--model", str(place / "model"), "--out", str(tmp_path / "out"), *more]
        assert cli.main(["eval", "vqa", *model, "--task", str(file)]) == 2
        said = capsys.readouterr().err
        assert "1 of 36 questions" in said and "'the long one'" in said and "leave them out" in said
        assert not list((tmp_path / "out" / "answers").glob("rank-*"))
        shutil.rmtree(tmp_path / "out")


def test_training_data_without_questions_is_refused_before_the_first_answer(
    place, tmp_path, capsys
):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    picture("red", "bar").save(pictures / "a.png")
    prepare_sources([str(pictures)], tmp_path / "data")
    more = ["--train-data", str(tmp_path / "data")]
    assert evaluate(place, tmp_path / "out", *more) == 2
    assert "has no questions to count" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_questions_without_options_among_others_are_told_with_the_rule(place, tmp_path, capsys):
    lines = (place / "own.jsonl").read_text().splitlines()
    mixed = place / "mixed.jsonl"
    row = {key: value for key, value in json.loads(lines[0]).items() if key != "options"}
    mixed.write_text("\n".join([json.dumps(row), *lines[1:3]]) + "\n")
    vqa.evaluate(VQASettings(model=place / "model", task=str(mixed), out=tmp_path / "out"))
    assert "1 of 3 questions have no options, so all are scored" in capsys.readouterr().err
