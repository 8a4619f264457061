"""Inputs as people have them, each one member of a kind; the right value of each.

Kinds that are looked for in every reader: what vanishes or changes without a word, one bad part
that takes good ones with it, text that is cut elsewhere than at newlines, byte-order marks, names
in different Unicode forms, and paths with characters that mean something elsewhere.
"""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.sources.spec import parse_source
from runtime.errors import UserError
from tests.data_pipelines.small_sources import picture, tar
from tests.prepared import prepare_sources


def turns(*texts: str) -> list[dict]:
    return [{"from": "human" if i % 2 == 0 else "gpt", "value": t} for i, t in enumerate(texts)]


def prepared(source: Any, out: Path) -> tuple[dict, dict]:
    """Records by id, and the reasons of rejects by id."""
    folder = prepare_sources(source, out)
    records = {record.record_id: record for record in PreparedDataset(folder).texts()}
    files = [folder / "quarantine.jsonl", folder / "rejected_parts.jsonl"]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    rejects = [json.loads(line) for line in lines]
    assert len({reject["id"] for reject in rejects}) == len(rejects)
    return records, {reject["id"]: reject["reason"] for reject in rejects}


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate("abcdefghij"):
        (folder / f"{name}.png").write_bytes(picture(number))
    return folder


def llava(tmp_path: Path, entries: list) -> str:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return f"llava:{path},images={tmp_path / 'images'}"


# Kind: an absent value is written in many ways (key missing, null, [], "").
def test_an_entry_without_an_image_is_a_text_however_it_says_so(images, tmp_path):
    without: list[dict] = [
        {}, {"image": None}, {"image": []}, {"image": ""}, {"image": ""}, {"images": []},
        {"image": None, "images": None},
    ]  # fmt: skip
    entries = [
        {"id": f"t{number}", **each, "conversations": turns(f"what is {number}?", "it")}
        for number, each in enumerate(without)
    ]
    records, rejects = prepared(llava(tmp_path, entries), tmp_path / "out")
    assert list(records) == [f"t{number}" for number in range(7)] and not rejects


def test_a_row_without_a_usable_id_has_the_default_one(images, tmp_path):
    ids = ["", " ", None, float("nan"), [1], True, 7, 8.0, 1.5, "own"]
    asked = [{"question": "what?", "answer": "a", "question_id": each} for each in ids]
    rows = [{"id": each, "text": f"text {number}"} for number, each in enumerate(ids)]
    rows += [{"image": "a.png", "questions": asked}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records, rejects = prepared(f"jsonl:{tmp_path / 't.jsonl'},images={images}", tmp_path / "out")
    assert sorted(records) == [
        "1.5", "7", "8", "own", *(f"t-{n:07d}" for n in (1, 2, 3, 4, 5, 6, 11)),
    ] and not rejects  # fmt: skip
    assert [q.question_id for q in records["t-0000011"].questions] == [
        *(f"t-0000011-{n}" for n in range(6)), "7", "8", "1.5", "own",
    ]  # fmt: skip
    table = pa.table({"id": ["", "x", None], "text": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "t.parquet")
    records, rejects = prepared(f"parquet:{tmp_path / 't.parquet'}", tmp_path / "table")
    assert list(records) == ["t-0000000", "x", "t-0000002"] and not rejects


def test_not_a_number_is_no_value_and_a_whole_number_has_no_point(images, tmp_path):
    nan = float("nan")
    rows = [
        {"image": "a.png", "caption": nan, "question": "how many?", "answer": 2.0},
        {"image": "b.png", "caption": ["b", nan, 2.5], "question": "how many?", "answer": [nan, 3]},
        {"image": nan, "text": "a story", "caption": nan, "question": nan, "answer": nan},
        {"text": nan},
        {"text": float("inf")},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records, rejects = prepared(f"jsonl:{tmp_path / 't.jsonl'},images={images}", tmp_path / "out")
    first, second, third = records.values()
    assert (first.captions, first.questions[0].answers) == ([], ["2"])
    assert (second.captions, second.questions[0].answers) == (["b", "2.5"], ["3"])
    assert (third.text, third.has_image) == ("a story", False)
    assert rejects == {
        "t-0000004": "neither an image nor a text", "t-0000005": "a text is not a text but float",
    }  # fmt: skip
    table = pa.table(
        {"image": [picture(1), picture(2)], "question": ["?", "?"], "answer": [2.0, nan]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    records, rejects = prepared(f"parquet:{tmp_path / 't.parquet'}", tmp_path / "table")
    assert records["t-0000000"].questions[0].answers == ["2"]
    assert rejects == {"t-0000001": "the question t-0000001-0 has no answer"}
    parts = {"jpg": picture(3), "json": json.dumps({"caption": nan, "id": nan}).encode()}
    source = tar(tmp_path / "t.tar", *((f"a.{ending}", data) for ending, data in parts.items()))
    records, rejects = prepared(source, tmp_path / "tar")
    assert records["t/a"].captions == [] and not rejects


def test_keys_of_one_meaning_are_read_where_one_is_null(images, tmp_path):
    said = [
        {"from": None, "role": "user", "value": None, "content": "what?"},
        {"from": "gpt", "role": None, "value": "a square", "content": None},
    ]
    asked = {"question": "what?", "answers": None, "answer": "a"}
    entries = [{"id": "1", "image": "a.png", "conversations": None, "messages": said}]
    records, rejects = prepared(llava(tmp_path, entries), tmp_path / "llava")
    assert len(records["a.png"].conversations) == 1 and not rejects
    row = {"image": "a.png", "conversations": said, "questions": [asked]}
    pq.write_table(pa.Table.from_pylist([row | {"image": picture(1)}]), tmp_path / "t.parquet")
    records, rejects = prepared(f"parquet:{tmp_path / 't.parquet'}", tmp_path / "out")
    (record,) = records.values()
    assert record.questions[0].answers == ["a"] and len(record.conversations) == 1 and not rejects


# Kind: of two of one name the last wins, and the first is gone.
def test_a_key_that_comes_twice_is_told(images, tmp_path):
    lines = [
        '{"text": "one", "text": "two"}',
        '{"text": "a"}',
        '{"text": "b", "c": {"d": 1, "d": 2}}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    records, rejects = prepared(f"jsonl:{tmp_path / 't.jsonl'}", tmp_path / "out")
    assert list(records) == ["t-0000002"] and list(rejects) == ["t.jsonl:1", "t.jsonl:3"]
    reason = 'the key \'text\' comes twice in one object, which begins {"text": "two"}'
    assert rejects["t.jsonl:1"] == f"the line is not valid JSON: {reason}"
    (tmp_path / "c.json").write_text('[{"id": 1, "image": "a.png", "image": "b.png"}]')
    with pytest.raises(UserError, match=r"c.json is not valid JSON: the key 'image' comes twice"):
        prepared(f"llava:{tmp_path / 'c.json'},images={images}", tmp_path / "llava")
    asked = '{"q1": {"imageId": "a", "question": "?", "question": "!", "answer": "b"}}'
    (tmp_path / "g.json").write_text(asked)
    (images / "a.jpg").write_bytes(picture(1))
    with pytest.raises(UserError, match="a key of its entry comes twice"):
        prepared(f"gqa:{tmp_path / 'g.json'},images={images}", tmp_path / "gqa")


def test_two_columns_of_one_name_are_refused(images, tmp_path):
    (images / "metadata.csv").write_text("file_name,text,text,,\na.png,one,two,,\n")
    with pytest.raises(UserError, match=r"metadata.csv has two columns 'text': rename one"):
        prepared(f"folder:{images}", tmp_path / "out")
    (images / "metadata.csv").write_text("file_name,text,,\na.png,one,,\n")  # as sheets end
    records, _ = prepared(f"folder:{images}", tmp_path / "out")
    assert records["a.png"].captions == ["one"]
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t.parquet has two columns 'text'"):
        prepared(f"parquet:{tmp_path / 't.parquet'}", tmp_path / "table")


def test_a_question_with_two_annotations_is_told_where_they_differ(images, tmp_path, capsys):
    asked = [{"question_id": n, "image_id": 1, "question": "what?"} for n in range(3)]
    answered: list[Any] = [
        {"question_id": n, "answers": [{"answer": answer}]}
        for n, answer in ((0, "a"), (1, "b"), (1, "c"), (2, "d"), (2, "d"))
    ]
    (tmp_path / "q.json").write_text(json.dumps({"data_subtype": "x", "questions": asked}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [*answered, None]}))
    (images / "COCO_x_000000000001.jpg").write_bytes(picture(1))
    source = f"vqav2:{tmp_path / 'q.json'},annotations={tmp_path / 'a.json'},images={images}"
    records, rejects = prepared(source, tmp_path / "out")
    assert [question.answers for question in records["1"].questions] == [["a"], ["d"]]
    assert rejects == {"1": "the question 1 has two annotations, which differ"}
    assert "1 annotations" in (told := capsys.readouterr().err) and "the first is a#5" in told


def test_a_caption_in_the_json_stands_beside_that_of_the_text_file(tmp_path):
    captions = {"a": "a cat", "b": ["a cat", " in the sun"], "c": None}
    members = [
        member
        for number, (name, caption) in enumerate(captions.items())
        for member in (
            (f"{name}.jpg", picture(number)),
            (f"{name}.txt", b"a cat\n"),
            (f"{name}.json", json.dumps({"caption": caption}).encode()),
        )
    ]
    records, rejects = prepared(tar(tmp_path / "t.tar", *members), tmp_path / "out")
    assert [record.captions for record in records.values()] == [
        ["a cat"], ["a cat", "in the sun"], ["a cat"],
    ] and not rejects  # fmt: skip


def test_entries_of_one_id_are_all_kept(images, tmp_path):
    entries = [{"id": 7, "conversations": turns(f"{n}?", "yes")} for n in range(3)]
    records, rejects = prepared(llava(tmp_path, entries), tmp_path / "out")
    assert list(records) == ["7", "7-0000001", "7-0000002"] and not rejects


# Kind: an image is never dropped; it gets a mark, or its entry is rejected by its own id.
def test_marks_stay_where_they_stand_and_mismatches_name_both_counts(images, tmp_path):
    entries = [
        {"id": 1, "image": "a.png", "conversations": turns("no mark at all", "it is noise")},
        {"id": 2, "image": "b.png", "conversations": turns("mark at the end\n<image>", "noise")},
        {"id": 3, "image": "c.png", "conversations": turns("hi", "hi", "<image> this?", "noise")},
        {"id": 4, "image": "d.png", "conversations": turns("<image>?", "noise", "<image>", "no")},
        {"id": 5, "image": ["e.png"], "conversations": turns("<image>\na list of one", "noise")},
        {"id": 6, "image": ["f.png", "g.png"], "conversations": turns("<image>\none mark", "no")},
        {"id": 8, "conversations": turns("how do I write <image> in SVG?", "so")},
        {"id": 10, "image": ["i.png", "j.png"], "conversations": turns("<image> <image>?", "no")},
    ]
    records, rejects = prepared(llava(tmp_path, entries), tmp_path / "out")
    asked = {
        name: record.conversations[0].messages[0].content
        for name, record in records.items()
        if record.conversations
    }
    assert asked == {
        "a.png": "<image>\nno mark at all", "b.png": "mark at the end\n<image>", "c.png": "hi",
        "e.png": "<image>\na list of one", "10": "<image> <image>?",
    }  # fmt: skip
    assert {"f.png", "g.png", "i.png", "j.png"} < records.keys()
    assert {name: reason.partition("image marks")[0] for name, reason in rejects.items()} == {
        "4": "a conversation has 2 ", "6": "a conversation has 1 ", "8": "a conversation has 1 ",
    }  # fmt: skip
    assert "for 2 images" in rejects["6"] and "its record has one image" in rejects["4"]


def test_messages_with_images_beside_them_keep_their_image(images, tmp_path):
    user, said = "user", {"role": "assistant", "content": "it is noise"}
    part = {"type": "text", "text": "what?"}
    url = {"type": "image_url", "image_url": {"url": "a.png"}}
    rows = [
        {"messages": [{"role": user, "content": "no mark, one image"}, said], "images": ["a.png"]},
        {"messages": [{"role": user, "content": "<image>what?"}, said], "images": ["b.png"]},
        {"messages": [{"role": user, "content": [url, part]}, said]},
        {"messages": [{"role": user, "content": "only text"}, said], "images": []},
        {
            "messages": [{"role": user, "content": [{"type": "image"}, part]}, said],
            "image": "c.png",
        },
        {"messages": [{"role": user, "content": "two"}, said], "images": ["d.png", "e.png"]},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"jsonl:{tmp_path / 'm.jsonl'},images={images}"
    records, rejects = prepared(source, tmp_path / "out")
    found = {
        int(name[-1]): (record.has_image, record.conversations[0].messages[0].content)
        for name, record in records.items()
    }
    assert found == {
        1: (True, "<image>\nno mark, one image"), 2: (True, "<image>what?"),
        4: (False, "only text"), 5: (True, "<image>\nwhat?"),
    }  # fmt: skip
    assert list(rejects) == ["m-0000006", "m-0000003"] or set(rejects) == {"m-0000003", "m-0000006"}
    assert "1 image marks" in rejects["m-0000003"] and "names 2 images" in rejects["m-0000006"]


# Kind: one bad part never takes good ones with it.
def test_only_the_bad_entry_about_a_picture_goes(images, tmp_path):
    first = {"from": "gpt", "value": "I speak first"}
    named = [{"from": "USER", "value": "<image>\nwhat?"}, {"from": "Bing", "value": "noise"}]
    entries = [
        {"id": "a1", "image": "a.png", "conversations": turns("<image>\ngood one?", "yes")},
        {"id": "a2", "image": "a.png", "conversations": [first, *turns("<image> oh", "yes")]},
        {"id": "a3", "image": "a.png", "conversations": turns("good two?", "yes", "sure?", "yes")},
        {"id": "d", "image": "d.png", "conversations": turns("<image>\nwhat?", "")},
        {"id": "g", "image": "g.png", "conversations": named},
        {"id": "h", "image": "h.png", "conversations": []},
        {"id": "x1", "image": "x.png", "conversations": turns("<image>", "not there")},
        {"id": "x2", "image": "x.png", "conversations": turns("<image>", "not there")},
        "no entry",
    ]
    records, rejects = prepared(llava(tmp_path, entries), tmp_path / "out")
    assert {name: len(record.conversations) for name, record in records.items()} == {
        "a.png": 2, "g.png": 1,
    }  # fmt: skip
    assert list(rejects) == ["a2", "d", "h", "x1", "x2", "chat-0000008"]
    assert rejects["x2"] == "x.png is not there"


def test_one_bad_question_leaves_the_others_of_its_image(images, tmp_path):
    row = {
        "image": "a.png",
        "caption": ["a square", "nul\0"],
        "questions": [
            {"question": "what?", "answers": ["a", "b"], "question_id": "q1"},
            {"question": "", "answers": ["c"], "question_id": "q2"},
            {"question": "which?", "answer": "d"},
        ],
    }
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    records, rejects = prepared(f"jsonl:{tmp_path / 'q.jsonl'},images={images}", tmp_path / "out")
    (record,) = records.values()
    assert [(q.question, q.answers) for q in record.questions] == [
        ("what?", ["a", "b"]), ("which?", ["d"]),
    ]  # fmt: skip
    assert record.captions == ["a square"]
    assert set(rejects) == {"q-0000001#caption-2", "q-0000001#question-2"}


# Kind: what is not read is named once, with what it might have meant.
def test_columns_that_are_not_read_are_named(images, tmp_path, capsys):
    rows = [{"image": "a.png", "captoin": "x"}, {"image": "b.png", "captoin": "y", "size": 3}]
    rows += [{"text": "a story"}] * 150 + [{"text": "a story", "author": "me"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records, rejects = prepared(f"jsonl:{tmp_path / 't.jsonl'},images={images}", tmp_path / "out")
    assert len(records) == 153 and not rejects
    told = capsys.readouterr().err
    assert told.count("not read") == 1
    assert "captoin (of 2, perhaps caption=captoin)" in told
    assert "size (of 1)" in told and "author (of 1)" in told


def test_an_answer_without_its_question_is_named_or_rejected(images, tmp_path, capsys):
    row = {"image": "a.png", "caption": "a", "prompt": "what?", "answer": "b", "question_id": 1}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    records, rejects = prepared(f"jsonl:{tmp_path / 't.jsonl'},images={images}", tmp_path / "out")
    assert records["t-0000001"].captions == ["a"] and not rejects
    told = capsys.readouterr().err
    assert "prompt (of 1" in told and "answer (of 1" in told and "question_id (of 1" in told
    columns = {
        "image": [picture(n) for n in range(4)], "caption": list("abcd"),
        "question": ["?", None, None, None], "answers": [["yes"], ["no"], [], None],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    records, rejects = prepared(f"parquet:{tmp_path / 't.parquet'}", tmp_path / "table")
    assert len(records) == 4
    assert rejects == {"t-0000001#question-1": "an answer without its question"}
    pq.write_table(pa.table(columns).drop(["question"]), tmp_path / "t.parquet")
    prepared(f"parquet:{tmp_path / 't.parquet'}", tmp_path / "none")
    assert "answers (of 4" in capsys.readouterr().err


def test_what_a_conversation_holds_beside_its_turns_is_named(images, tmp_path, capsys):
    said = [{"from": "human", "value": "<image>?", "mask": 1}, {"from": "gpt", "value": "yes"}]
    entries: list[dict[str, Any]] = [
        {"id": [1], "image": "a.png", "conversations": said, "caption": "lost", "model": ""},
        {"image": "./a.png", "messages": said, "conversations": None, "mask": [0, 1]},
        {"id": "both", "image": "a.png", "images": ["a.png", "b.png"], "conversations": said},
        {"id": "cut", "image": ["a.png", ""], "conversations": said},
        {"id": "blank", "image": "", "images": ["c.png"], "conversations": said},
    ]
    records, rejects = prepared(llava(tmp_path, entries), tmp_path / "llava")
    assert {name: len(record.conversations) for name, record in records.items()} == {
        "a.png": 2, "b.png": 0, "c.png": 1,
    }  # fmt: skip
    assert rejects == {
        "both": "a conversation has 1 image marks for 2 images",
        "cut": "one of its 2 images has no name",
    }
    told = capsys.readouterr().err
    for name in ("id (of 1)", "caption (of 1)", "; mask (of 1)", "conversations.mask (of 5)"):
        assert name in told, told
    assert "model" not in told
    row = {
        "image": "", "images": ["c.png"], "messages": {"messages": said, "image": "d.png"},
        "questions": [{"question": "what?", "answer": "a", "choices": ["a", "b"]}],
    }  # fmt: skip
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    records, rejects = prepared(f"jsonl:{tmp_path / 'm.jsonl'},images={images}", tmp_path / "m")
    assert records["m-0000001"].has_image and not rejects
    told = capsys.readouterr().err
    for name in ("questions.choices", "conversations.image", "conversations.mask"):
        assert f"{name} (of 1" in told, told
    assert "columns were not read: images" not in told


def test_a_message_in_parts_shows_the_image_that_it_names(images, tmp_path, capsys):
    def row(part: dict[str, Any], **others: Any) -> dict[str, Any]:
        content = [{"type": "image", **part}, {"type": "text", "text": "?"}]
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}]
        return {"messages": turns, **others}

    rows = [
        row({"image": "b.png"}, images=["a.png"]),
        row({"image_url": {"url": "file:///photos/a.png"}}, images=["a.png"]),
        row({"image": "data:image/png;base64,AAAA"}, image="b.png"),
        row({}, image="c.png"),
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records, rejects = prepared(f"jsonl:{tmp_path / 'm.jsonl'},images={images}", tmp_path / "out")
    assert list(records) == ["m-0000002", "m-0000003", "m-0000004"]
    assert rejects == {"m-0000001": "a message shows b.png, where its image is a.png"}
    assert "conversations.image (of 1" in capsys.readouterr().err
    entry = row({"image": "b.png"}, id="x", image=["b.png", "a.png"])
    entry["messages"][0]["content"].append({"type": "image", "image": "b.png"})
    _, rejects = prepared(llava(tmp_path, [entry]), tmp_path / "llava")
    assert rejects == {"x": "a message shows b.png, where its image is a.png"}


# Kind: files of a folder that its reader has no use for.
def test_files_of_a_folder_of_tables_that_are_not_read_are_named(tmp_path, capsys):
    for folder in ("w", "p"):
        (tmp_path / folder / "sub").mkdir(parents=True)
    tar(tmp_path / "w" / "0.tar", ("a.png", picture(1)))
    tar(tmp_path / "w" / "sub" / "1.tar", ("a.png", picture(2)))
    for name in ("w/2.tar.gz", "w/._0.tar", "w/0_stats.json"):
        (tmp_path / name).write_bytes(b"x")
    records, _ = prepared(f"webdataset:{tmp_path / 'w'}", tmp_path / "tar")
    assert list(records) == ["0/a"]
    told = capsys.readouterr().err
    assert f"3 files below {tmp_path / 'w'} were not read (1 × .json, 1 × .gz, 1 × folder)" in told
    # Columns in another order are the same columns.
    pq.write_table(pa.table({"text": ["a"], "id": ["1"]}), tmp_path / "p" / "0.parquet")
    pq.write_table(pa.table({"id": ["2"], "text": ["b"]}), tmp_path / "p" / "1.parquet")
    out = tmp_path / "table"
    records, _ = prepared(f"parquet:{tmp_path / 'p'}", out)
    assert {name: record.text for name, record in records.items()} == {"1": "a", "2": "b"}
    told = capsys.readouterr().err
    assert "1 folders below" in told and "the first is sub/" in told
    prepared(f"arrow:{out}", tmp_path / "again")  # what prepare leaves beside its shards is known
    assert "not read" not in capsys.readouterr().err


def test_what_prepare_writes_is_read_back_from_json_lines(images, tmp_path):
    row = {
        "id": "r", "image": "a.png", "captions": ["one", "two"], "text": None,
        "questions": [{"question_id": "q", "question": "what?", "answers": ["a", "b"]}],
        "conversations": [
            {"images": [], "messages": [
                {"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "yes"},
            ]}
        ],
    }  # fmt: skip
    (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
    records, rejects = prepared(f"jsonl:{tmp_path / 'r.jsonl'},images={images}", tmp_path / "out")
    record = records["r"]
    assert record.captions == ["one", "two"] and record.questions[0].answers == ["a", "b"]
    assert len(record.conversations[0].messages) == 2 and not rejects


def test_leftovers_of_macos_are_no_images_and_doubles_are_told(tmp_path):
    mac = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(120)
    source = tar(
        tmp_path / "mac.tar",
        ("._0001.jpg", mac), ("0001.jpg", picture(1)), ("._0001.txt", mac), ("0001.txt", b"one"),
        ("./._0002.png", mac), ("./0002.png", picture(2)), ("./._0002.txt", mac),
        ("./0002.txt", b"two"), ("__MACOSX/0002.png", mac), (".DS_Store", mac),
    )  # fmt: skip
    records, rejects = prepared(source, tmp_path / "mac")
    assert {name: r.captions for name, r in records.items()} == {
        "mac/0001": ["one"], "mac/0002": ["two"],
    }  # fmt: skip
    assert not rejects

    twice = [("a.jpg", picture(3)), ("a.txt", b"first"), ("a.jpg", picture(4)), ("a.txt", b"again")]
    records, rejects = prepared(tar(tmp_path / "twice.tar", *twice), tmp_path / "twice")
    assert records["twice/a"].captions == ["first"]
    assert rejects == {"twice/a": "another record of this id came before"}


def test_a_name_cut_at_the_wrong_dot_is_told_with_the_rule(tmp_path):
    dots = [
        ("22.05.png", picture(1)),
        ("22.05.txt", b"the fifth"),
        ("22.06.png", picture(2)),
        ("plain.png", picture(3)),
        ("plain.txt", b"plain"),
        ("v1.0/a.png", picture(4)),
    ]
    records, rejects = prepared(tar(tmp_path / "dots.tar", *dots), tmp_path / "out")
    assert list(records) == ["dots/plain", "dots/v1.0/a"] and list(rejects) == ["dots/22"]
    assert (
        "a sample ends at its first dot, so that 22.05.png is the file '05.png'"
        in (rejects["dots/22"])
    )


def test_captions_of_a_folder_reach_their_images(tmp_path, capsys):
    root = tmp_path / "f"
    for name in ("IMG_1.JPG", "sub/IMG_1.jpg", "train/0.png", "test/0.png", "__MACOSX/._0.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(len(name)))
    (root / "._IMG_1.JPG").write_bytes(b"what macOS leaves")
    (root / "IMG_1.TXT").write_text("upper case")
    (root / "sub" / "IMG_1.txt").write_text("the one below")
    (root / "train" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "in train"}\n')
    (root / "test" / "metadata.csv").write_text("\ufefffile_name,text\n0.png,in test\nno.png,x\n")
    (root / "notes.txt").write_text("about nothing")
    (root / "old.tiff").write_bytes(b"x")
    records, rejects = prepared(f"folder:{root}", tmp_path / "out")
    assert {name: record.captions for name, record in records.items()} == {
        "IMG_1.JPG": ["upper case"], "sub/IMG_1.jpg": ["the one below"],
        "train/0.png": ["in train"], "test/0.png": ["in test"],
    }  # fmt: skip
    reason = "there is no such image in the folder (metadata.csv:3)"
    assert rejects == {"test/no.png": reason}
    told = capsys.readouterr().err
    assert "2 files below" in told and "1 × .txt, 1 × .tiff" in told and "notes.txt" in told


# Kind: text ends at newlines alone, and a byte-order mark is accepted wherever text is read.
def test_lines_end_at_newlines_alone(tmp_path):
    root = tmp_path / "f"
    root.mkdir()
    (root / "a.png").write_bytes(picture(1))
    (root / "a.txt").write_text("\ufefffirst\u2028half\x0bof\x85one\r\nanother\n", encoding="utf-8")
    records, _ = prepared(f"folder:{root}", tmp_path / "out")
    assert records["a.png"].captions == ["first\u2028half\x0bof\x85one", "another"]
    lines = ['{"text": "one\u2028half"}', '{"text": "\ufefftwo"}', ""]
    (tmp_path / "t.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    records, rejects = prepared(f"jsonl:{tmp_path / 't.jsonl'}", tmp_path / "lines")
    assert [record.text for record in records.values()] == ["one\u2028half", "two"]
    assert not rejects


# Kind: names compare in one Unicode form.
def test_names_compare_in_one_unicode_form(images, tmp_path):
    apart, joined = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    (images / f"{apart}.png").write_bytes(picture(77))
    entries = [
        {"id": "1", "image": f"{joined}.png", "conversations": turns("<image>", "one")},
        {"id": "2", "image": f"{apart}.png", "conversations": turns("<image>", "two")},
    ]
    records, rejects = prepared(llava(tmp_path, entries), tmp_path / "llava")
    assert len(records[f"{joined}.png"].conversations) == 2 and not rejects
    metadata = json.dumps({"file_name": f"{joined}.png", "text": "a café"}, ensure_ascii=False)
    (images / "metadata.jsonl").write_text(metadata + "\n", encoding="utf-8")
    records, rejects = prepared(f"folder:{images}", tmp_path / "folder")
    assert records[f"{joined}.png"].captions == ["a café"] and not rejects
    source = tar(tmp_path / "t.tar", (f"{apart}.png", picture(1)), (f"{apart}.txt", b"one"))
    records, _ = prepared(source, tmp_path / "tar")
    assert records[f"t/{joined}"].captions == ["one"]


# Kind: what stands in a path means nothing else.
@pytest.mark.parametrize(
    "name", ["a b", "a,images=b", "a#1", "[a]", "a{1..2}", "a*", "llava:x", "7"]
)
def test_paths_of_any_name_are_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    root = Path(name)
    root.mkdir()
    (root / "one.png").write_bytes(picture(1))
    tar(root / "t.tar", ("one.png", picture(1)))
    (root / "t.jsonl").write_text('{"image": "one.png"}\n')
    sources = [f"folder:{name}", name, f"webdataset:{name}", f"webdataset:{name}/t.tar"]
    sources += [f"jsonl:{name}/t.jsonl,images={tmp_path / root}"] if "=" not in name else []
    for number, source in enumerate(sources):
        records, _ = prepared(source, tmp_path / "out" / str(number))
        assert len(records) == 1, source


def test_a_file_that_only_looks_like_an_option_is_a_file(tmp_path):
    path = tmp_path / "a,licence=b.jsonl"
    path.write_text('{"text": "a"}\n')
    spec = parse_source(f"jsonl:{path}")
    assert spec.path == str(path) and not spec.options
