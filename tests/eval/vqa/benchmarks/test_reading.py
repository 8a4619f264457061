"""The benchmarks' published files, their tables, one's own lines, and what is wrong with them."""

import base64
import io
import json
import re
import unicodedata
from pathlib import Path

import datasets
import pytest
from PIL import Image

from eval.vqa.benchmarks import tables
from eval.vqa.benchmarks.load import open_benchmark
from eval.vqa.scorers.tasks import TASKS
from runtime.errors import UserError


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


TEN = [{"answer": a, "answer_id": i} for i, a in enumerate(["red"] * 6 + ["dark red"] * 4)]


def make_vqav2(root: Path, **change) -> Path:
    question = {"image_id": 42, "question": "What color?", "question_id": 420}
    answer = {"question_id": 420, "image_id": 42, "question_type": "what color", "answers": TEN,
              "answer_type": "other", "multiple_choice_answer": "red"}  # fmt: skip
    write(root / "v2_OpenEnded_mscoco_val2014_questions.json",
          {"data_subtype": "val2014", "questions": [question]})  # fmt: skip
    answer |= change
    write(root / "v2_mscoco_val2014_annotations.json", {"annotations": [answer]})
    write(root / "images" / "COCO_val2014_000000000042.jpg", png())
    return root


def make_textvqa(root: Path, **change) -> Path:
    row = {"question_id": 7, "question": "what brand?", "image_id": "ab12", "answers": ["x"] * 10}
    write(root / "train_images" / "ab12.jpg", png())
    return write(root / "TextVQA_0.5.1_val.json", {"data": [row | change]})


def make_gqa(root: Path, **change) -> Path:
    row = {"question": "Is it red?", "imageId": "n1", "answer": "yes",
           "types": {"structural": "verify", "semantic": "attr"}}  # fmt: skip
    write(root / "n1.jpg", png())
    return write(root / "testdev_balanced_questions.json", {"201": row | change})


def make_pope(root: Path, **change) -> Path:
    for split in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": i, "image": "COCO_val2014_000000000042.jpg", "label": label,
             "text": "Is there a dog in the image?"} | change
            for i, label in ((1, "yes"), (2, "no"))
        ]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write(root / f"coco_pope_{split}.json", text)
    write(root / "val2014" / "COCO_val2014_000000000042.jpg", png())
    return root


def make_mme(root: Path, lines: str = "Is it red?\tYes\nIs it blue?\tNo\n") -> Path:
    write(root / "color" / "images" / "0001.jpg", png())
    write(root / "color" / "questions_answers_YN" / "0001.txt", lines)
    write(root / "count" / "0002.png", png())
    write(root / "count" / "0002.txt", "One?\tYes\nTwo?\tNo\n")
    return root


def make_seedbench(root: Path, **change) -> Path:
    row = {"question_id": "1", "question": "What?", "choice_a": "w", "choice_b": "x",
           "choice_c": "y", "choice_d": "z", "answer": "C", "data_id": "44_11",
           "data_type": "image", "question_type_id": 1}  # fmt: skip
    video = row | {"question_id": "2", "data_type": "video", "data_id": "v.mp4"}
    write(root / "SEED-Bench-image" / "44_11", png())
    whole = {"questions": [row | change, video], "question_type": {"Scene Understanding": 1}}
    return write(root / "SEED-Bench.json", whole)


def make_mmbench(root: Path, answer: str = "B", image: str | None = None) -> Path:
    encoded = base64.b64encode(png()).decode() if image is None else image
    header = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage"
    rows = [
        f"5\tWhat?\tnan\tone\ttwo\tthree\t\t{answer}\tocr\t{encoded}",
        f"1000005\tWhat?\tnan\ttwo\tthree\tone\t\tA\tocr\t{'5' if image is None else image}",
    ]
    return write(root / "MMBench_DEV_EN.tsv", "\n".join([header, *rows]) + "\n")


MAKERS = {
    "vqav2": make_vqav2,
    "textvqa": make_textvqa,
    "gqa": make_gqa,
    "pope": make_pope,
    "mme": make_mme,
    "seedbench": make_seedbench,
    "mmbench": make_mmbench,
}


@pytest.mark.parametrize("name", MAKERS)
def test_published_files_are_read_with_their_images(tmp_path, name):
    found = open_benchmark(TASKS[name], str(MAKERS[name](tmp_path)))
    assert found.questions
    for question in found.questions:
        (image,) = question.images
        data = image if isinstance(image, bytes) else image() if callable(image) else image
        Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).verify()


def test_what_is_read_of_each_published_file(tmp_path):
    def first(name):
        found = open_benchmark(TASKS[name], str(MAKERS[name](tmp_path / name)))
        q = found.questions[0]
        return q.question_id, q.question, q.answers[0], q.category, q.group, q.options

    assert first("vqav2") == ("420", "What color?", "red", "other, what color", "", ())
    assert first("textvqa") == ("7", "what brand?", "x", "", "", ())
    assert first("gqa") == ("201", "Is it red?", "yes", "verify", "", ())
    question = "Is there a dog in the image?"
    assert first("pope") == ("adversarial-1", question, "yes", "adversarial", "", ())
    assert first("mme") == ("color/0001-1", "Is it red?", "Yes", "color", "0001", ())
    scene = "Scene Understanding"
    assert first("seedbench") == ("1", "What?", "C", scene, "", ("w", "x", "y", "z"))
    assert first("mmbench") == ("5", "What?", "B", "ocr", "5", ("one", "two", "three"))


def test_what_is_left_out_is_counted(tmp_path):
    found = open_benchmark(TASKS["seedbench"], str(make_seedbench(tmp_path)))
    assert len(found.questions) == 1 and found.left_out == {"questions about videos": 1}


IMAGE = {"bytes": png(), "path": None}
ROWS = {
    "vqav2": {"question_id": 1, "question": "?", "answers": TEN, "answer_type": "other",
              "question_type": "what", "image_id": 3, "image": IMAGE},
    "textvqa": {"question_id": 1, "question": "?", "answers": ["x"] * 10, "image_id": "a",
                "image": IMAGE},
    "gqa": {"id": "1", "imageId": "n1", "question": "?", "answer": "yes",
            "types": {"structural": "query"}, "image": IMAGE},
    "pope": {"question_id": "1", "question": "?", "answer": "no", "category": "popular",
             "image_source": "c", "image": IMAGE},
    "seedbench": {"question_id": "1", "question": "?", "choice_a": "w", "choice_b": "x",
                  "choice_c": "y", "choice_d": "z", "answer": "D", "data_type": "image",
                  "question_type_id": 2, "data_id": "d", "image": [IMAGE]},
    "mmbench": {"index": 1000007, "question": "?", "hint": "look", "A": "one", "B": "two",
                "C": "nan", "D": "nan", "answer": "A", "category": "ocr", "image": IMAGE},
    "mmmu": {"id": "validation_Art_3", "question": "In <image 2>, as in <image 1>?",
             "options": "['a <image 1>', 'b']", "answer": "B", "question_type": "multiple-choice",
             "image_1": IMAGE, "image_2": {"bytes": png(200), "path": None}},
}  # fmt: skip


def parquet(path: Path, rows: list[dict]) -> Path:
    table = datasets.Dataset.from_list(rows)
    for name in [n for n in table.column_names if re.fullmatch(r"image(_\d)?", n)]:
        kind = datasets.Image()
        is_list = isinstance(rows[0][name], list)
        table = table.cast_column(name, datasets.List(kind) if is_list else kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(str(path))
    return path


@pytest.mark.parametrize("name", ROWS)
def test_tables_with_the_columns_of_the_hub_are_read(tmp_path, name):
    parquet(tmp_path / "data" / "test-0.parquet", [ROWS[name]])
    (question,) = open_benchmark(TASKS[name], str(tmp_path)).questions
    shades = [Image.open(io.BytesIO(image())).getpixel((0, 0))[0] for image in question.images]
    assert shades == ([200, 0] if name == "mmmu" else [0])  # in the order in which they are named
    if name == "mmmu":
        assert question.options == ("a <image 1>", "b") and question.category == "Art"
    if name == "mmbench":
        assert question.group == "7" and question.options == ("one", "two")
        assert question.question == "look\n?"
    if name == "pope":
        assert question.question_id == "popular-1"


@pytest.mark.parametrize("name", ["gqa", "vqav2", "textvqa", "pope", "seedbench", "mmmu"])
def test_tables_of_a_split_without_answers_are_refused(tmp_path, name):
    key = "answers" if name in ("vqav2", "textvqa") else "answer"
    row = ROWS[name] | {key: [] if key == "answers" else None}
    path = parquet(tmp_path / "test-0.parquet", [row])
    with pytest.raises(UserError, match=rf"of .* has .*{name} cannot score it"):
        open_benchmark(TASKS[name], str(path))


def test_both_questions_of_an_mme_image_are_told_apart(tmp_path):
    row = {"question_id": "color/1.png", "category": "color", "image": IMAGE}
    rows = [row | {"question": q, "answer": a} for q, a in (("Red?", "Yes"), ("Blue?", "No"))]
    found = open_benchmark(TASKS["mme"], str(parquet(tmp_path / "x.parquet", rows)))
    assert len({q.question_id for q in found.questions}) == 2
    assert {q.group for q in found.questions} == {"color/1.png"}


def test_the_hub_is_asked_for_the_usual_copy_and_its_images_joined(monkeypatch):
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        if config == "testdev_balanced_images":
            row = {"id": "n1", "image": IMAGE}
            return datasets.Dataset.from_list([row]).cast_column(
                "image", datasets.Image(decode=False)
            )
        return datasets.Dataset.from_list([{k: v for k, v in ROWS["gqa"].items() if k != "image"}])

    monkeypatch.setattr(tables, "_load", load)
    (question,) = open_benchmark(TASKS["gqa"], None).questions
    assert asked[0] == ("lmms-lab/GQA", "testdev_balanced_instructions", "testdev")
    assert question.images[0]() == png()


def test_a_data_set_that_cannot_be_downloaded_is_one_sentence():
    with pytest.raises(UserError, match=r"lmms-lab/POPE .* cannot be loaded from the hub .*--data"):
        open_benchmark(TASKS["pope"], None)
    with pytest.raises(UserError, match="somebody/else"):
        open_benchmark(TASKS["pope"], "somebody/else")


def own_lines(path: Path, *rows) -> Path:
    write(path.parent / "a.png", png())
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


OWN = {"image": "a.png", "question": "what?", "answers": ["red"]}


def test_own_lines_take_letters_and_texts_of_options(tmp_path):
    options = {"options": ["red", "blue"]}
    rows = [OWN, {**OWN, "answers": "blue", "id": "x", "category": "c"} | options,
            {**OWN, "answer": "B", "answers": None, "id": "y"} | options]  # fmt: skip
    del rows[2]["answers"]
    path = own_lines(tmp_path / "own.jsonl", *rows)
    found = open_benchmark(TASKS["exact"], str(path)).questions
    assert [q.question_id for q in found] == ["1", "x", "y"]
    assert [q.answers for q in found] == [("red",), ("B",), ("B",)]
    assert found[1].category == "c" and found[0].images == (tmp_path / "a.png",)


@pytest.mark.parametrize(
    ("rows", "task", "complaint"),
    [
        ([], "exact", "has no questions, so there is nothing to score"),
        ([OWN | {"image": "b.png"}], "exact", "1 of 1 images .* not in .* 'b.png'; give --images"),
        ([OWN | {"id": "1"}, OWN | {"id": "1"}], "exact", "question id '1' more than once"),
        ([{"question": "what?", "answers": ["x"]}], "exact", "no field 'image'; it has answers"),
        ([{"image": "a.png", "question": "what?"}], "exact", "neither 'answers' nor 'answer'"),
        ([OWN | {"answers": []}], "exact", "has no answer, or an empty one"),
        ([OWN | {"answers": [""]}], "exact", "has no answer, or an empty one"),
        ([OWN | {"question": " "}], "exact", "has no text"),
        ([OWN | {"question": 3}], "exact", "'question' that is not a text"),
        ([OWN | {"answers": {"a": 1}}], "exact", "'answers' that are not a list"),
        ([OWN | {"answers": ["red", None]}], "exact", "'None' where an answer is a text"),
        ([OWN], "soft", "has 1 answers where the rule takes exactly 10"),
        ([OWN], "vqav2", "has 1 answers where the rule takes exactly 10"),
        ([OWN, OWN], "textvqa", "as do 1 more question"),
        ([OWN | {"options": ["red"]}], "option", "has 1 options"),
        ([OWN | {"options": ["x", "y"]}], "option", "'red' where its options are AB"),
        ([OWN], "option", "has 0 options"),
        ([OWN], "mme", "has the answer 'red' where MME has"),
        ([OWN | {"answers": ["maybe"]}], "pope", "'maybe' where POPE has"),
        (["x"], "exact", "is not an object"),
    ],
)
def test_own_lines_that_cannot_be_scored_are_one_sentence(tmp_path, rows, task, complaint):
    path = own_lines(tmp_path / "own.jsonl", *rows)
    with pytest.raises(UserError, match=complaint) as error:
        open_benchmark(TASKS[task], str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("vqav2", {"answers": TEN[:9]}, "has 9 answers where the rule takes exactly 10"),
        ("vqav2", {"question_id": 1}, "question 420 .* has no annotation"),
        ("textvqa", {"answers": ["x"] * 11}, "has 11 answers"),
        ("vqav2", {"answers": None}, "annotation of question 420 .* answers that are not a list"),
        ("vqav2", {"answers": [{"text": "x"}] * 10}, "'None' where an answer is a text"),
        ("textvqa", {"answers": "ten chars!"}, "question 7 .* answers that are not a list"),
        ("textvqa", {"answers": [{"answer": "x"}] * 10}, "where an answer is a text"),
        ("textvqa", {"question": None}, "has a question that is not a text"),
        ("gqa", {"answer": ["yes"]}, "where an answer is a text"),
        ("gqa", {"types": "verify"}, "is not laid out as the file of gqa"),
        ("seedbench", {"question_type_id": [1]}, "is not laid out as the file of seedbench"),
        ("textvqa", {"image_id": "zz"}, "1 of 1 images .* 'zz'"),
        ("gqa", {"imageId": "n9"}, "'n9'; give --images"),
        ("pope", {"label": "perhaps"}, "'perhaps' where POPE has"),
        ("pope", {"image": "gone.jpg"}, "'gone.jpg'"),
        ("mme", "Is it red?\tYes\n", "image '0001' of 'color' has 1 questions where MME has 2"),
        ("mme", "Is it red? Yes\nx\tNo\n", "line 1 .* has no tab"),
        ("seedbench", {"choice_b": None}, "question 1 has no option B, but one behind it"),
        ("seedbench", {"answer": "E"}, "'E' where its options are ABCD"),
        ("mmbench", "D", "'D' where its options are ABC"),
    ],
)
def test_published_files_that_cannot_be_scored_are_one_sentence(tmp_path, name, change, complaint):
    arguments = change if isinstance(change, dict) else {}
    positional = () if isinstance(change, dict) else (change,)
    path = MAKERS[name](tmp_path, *positional, **arguments)
    with pytest.raises(UserError, match=complaint):
        open_benchmark(TASKS[name], str(path))


@pytest.mark.parametrize(
    ("name", "file", "text", "complaint"),
    [
        ("gqa", "x.json", "{", "not valid JSON"),
        ("gqa", "x.json", "[]", "is not a file of GQA"),
        ("textvqa", "x.json", "{}", 'has no list "data"'),
        ("pope", "x.json", "{\n", "line 1 of .* is not valid JSON"),
        ("mmmu", "x.json", "{}", "not a file that mmmu is read from"),
        ("pope", "x.parquet", "nonsense", "cannot be read as parquet"),
        ("mmbench", "x.tsv", "a\tb\n1\t2\n", "no field 'index'"),
        ("exact", "x.jsonl", '{"image": 1\n', "line 1 of .* is not valid JSON"),
    ],
)
def test_files_of_another_kind_are_one_sentence(tmp_path, name, file, text, complaint):
    path = write(tmp_path / file, text)
    with pytest.raises(UserError, match=complaint):
        open_benchmark(TASKS[name], str(path))


def test_ids_that_come_twice_within_one_object_or_list_are_refused(tmp_path):
    path = make_gqa(tmp_path)
    text = path.read_text()
    path.write_text(text[:-1] + ", " + text[1:])  # which a JSON reader takes, keeping the last
    with pytest.raises(UserError, match="question id '201' more than once"):
        open_benchmark(TASKS["gqa"], str(path))
    make_vqav2(tmp_path / "v")
    file = tmp_path / "v" / "v2_mscoco_val2014_annotations.json"
    rows = json.loads(file.read_text())["annotations"]
    write(file, {"annotations": rows * 2})
    with pytest.raises(UserError, match="question id '420' more than once"):
        open_benchmark(TASKS["vqav2"], str(tmp_path / "v"))


def test_text_and_images_in_another_encoding_are_one_sentence(tmp_path):
    path = make_mme(tmp_path)
    write(path / "count" / "0002.txt", "One?\tYes\nZwölf?\tNo\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"0002\.txt cannot be read as text"):
        open_benchmark(TASKS["mme"], str(path))
    path = make_mmbench(tmp_path, image="A" * 101)
    (image,) = open_benchmark(TASKS["mmbench"], str(path)).questions[0].images
    with pytest.raises(UserError, match="not written as base64"):
        image()


def test_two_images_of_one_name_are_not_guessed_between(tmp_path):
    path = make_pope(tmp_path)
    write(tmp_path / "train2014" / "COCO_val2014_000000000042.jpg", png(9))
    with pytest.raises(UserError, match="1 of 1 images"):
        open_benchmark(TASKS["pope"], str(path))
    found = open_benchmark(TASKS["pope"], str(path), images=tmp_path / "val2014")
    assert found.questions[0].images == (tmp_path / "val2014/COCO_val2014_000000000042.jpg",)


def test_the_fingerprint_tells_questions_answers_and_options_apart(tmp_path):
    def fingerprint(row):
        path = own_lines(tmp_path / "own.jsonl", row)
        return open_benchmark(TASKS["exact"], str(path)).fingerprint

    changed = [OWN, OWN | {"answers": ["blue"]}, OWN | {"question": "who?"}, OWN | {"id": "9"},
               OWN | {"category": "c"}, OWN | {"options": ["red", "blue"]}]  # fmt: skip
    assert len({fingerprint(row) for row in changed}) == len(changed)


def test_fields_that_are_not_read_are_counted_with_what_they_may_have_meant(tmp_path):
    row = OWN | {"choices": ["red", "blue"], "Question": "?", "source": "x"}
    path = own_lines(tmp_path / "own.jsonl", row, OWN | {"source": "y"})
    assert open_benchmark(TASKS["exact"], str(path)).left_out == {
        "values of the field 'Question' (did you mean 'question'?)": 1,
        "values of the field 'choices' (did you mean 'options'?)": 1,
        "values of the field 'source'": 2,
    }


# Inputs of real people: byte-order marks, Unicode forms, what macOS leaves, names like ours.


def test_a_byte_order_mark_is_passed_over_wherever_text_is_read(tmp_path):
    mark = b"\xef\xbb\xbf"
    own = own_lines(tmp_path / "own.jsonl", OWN, OWN | {"id": "x"})
    files = {"exact": [own]}
    for name in ("vqav2", "gqa", "pope", "mme", "seedbench", "mmbench"):
        path = MAKERS[name](tmp_path / name)
        endings = ("*.json", "*.txt", "*.tsv")
        files[name] = [f for ending in endings for f in (tmp_path / name).rglob(ending)]
        before = open_benchmark(TASKS[name], str(path))
        for file in files[name]:
            file.write_bytes(mark + file.read_bytes())
        after = open_benchmark(TASKS[name], str(path))
        assert after.fingerprint == before.fingerprint and files[name]
    own.write_bytes(mark + own.read_bytes())
    assert [q.question_id for q in open_benchmark(TASKS["exact"], str(own)).questions] == ["1", "x"]


def test_lines_end_at_a_newline_alone(tmp_path):
    path = own_lines(tmp_path / "own.jsonl", OWN | {"question": "what\u2028now?"}, OWN)
    text = path.read_text()
    path.write_text(text.replace("\\u2028", "\u2028"))
    assert [q.question for q in open_benchmark(TASKS["exact"], str(path)).questions] == [
        "what\u2028now?",
        "what?",
    ]


@pytest.mark.parametrize("folder", ["", "Städte/"])
def test_names_of_images_compare_in_one_unicode_form(tmp_path, folder):
    on_disk = unicodedata.normalize("NFD", f"{folder}Köln.png")
    write(tmp_path / on_disk, png())
    row = OWN | {"image": unicodedata.normalize("NFC", f"{folder}Köln.png")}
    path = write(tmp_path / "own.jsonl", json.dumps(row))
    (question,) = open_benchmark(TASKS["exact"], str(path)).questions
    assert question.images == (tmp_path / on_disk,)


def test_ids_that_differ_by_their_unicode_form_alone_are_one_id(tmp_path):
    rows = [OWN | {"id": unicodedata.normalize(form, "Köln")} for form in ("NFC", "NFD")]
    path = own_lines(tmp_path / "own.jsonl", *rows)
    with pytest.raises(UserError, match="more than once"):
        open_benchmark(TASKS["exact"], str(path))


def test_what_macos_leaves_beside_files_is_passed_over(tmp_path):
    path = make_pope(tmp_path / "pope")
    write(path / "._coco_pope_random.json", b"\x00\x05\x16\x07")
    write(path / "val2014" / "._COCO_val2014_000000000042.jpg", b"\x00")
    assert len(open_benchmark(TASKS["pope"], str(path)).questions) == 6
    path = make_mme(tmp_path / "mme")
    write(path / "count" / "._0002.txt", b"\x00\x05\x16\x07")
    write(path / "__MACOSX" / "0001.txt", "x")
    assert len(open_benchmark(TASKS["mme"], str(path)).questions) == 4


@pytest.mark.parametrize("name", ["a b", "a,b", "a[1]", "a#b", "2026-11-30", "a*b", "100%"])
def test_folders_of_any_name_are_read(tmp_path, name):
    parquet(tmp_path / name / "test-0.parquet", [ROWS["gqa"]])
    assert len(open_benchmark(TASKS["gqa"], str(tmp_path / name)).questions) == 1
    path = make_pope(tmp_path / name / "pope")
    assert len(open_benchmark(TASKS["pope"], str(path)).questions) == 6
    assert open_benchmark(TASKS["exact"], str(own_lines(tmp_path / name / "o.jsonl", OWN)))


def test_annotations_that_no_question_has_are_counted(tmp_path):
    path = make_vqav2(tmp_path)
    file = path / "v2_mscoco_val2014_annotations.json"
    rows = json.loads(file.read_text())["annotations"]
    write(file, {"annotations": [*rows, rows[0] | {"question_id": 421}]})
    found = open_benchmark(TASKS["vqav2"], str(path))
    assert found.left_out == {"annotations without a question": 1}
