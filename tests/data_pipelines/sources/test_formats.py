"""Every source is read from a fixture in the format that it is published in."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from data_pipelines.records import Conversation, Message, Question, Record, Reject
from data_pipelines.sources.source import open_source
from data_pipelines.sources.spec import KINDS, parse_source
from runtime.errors import UserError
from tests.data_pipelines.small_sources import add, picture, read
from tests.prepared import prepare_sources


@pytest.fixture
def images(tmp_path) -> Path:
    """0.png … 3.png."""
    root = tmp_path / "images"
    root.mkdir()
    for number in range(4):
        (root / f"{number}.png").write_bytes(picture(number))
    return root


def test_captions_of_a_folder_from_a_table(images, tmp_path):
    (images / "metadata.jsonl").write_text(
        '{"file_name": "0.png", "text": "zero"}\n\n{"file_name": "2.png", "text": ["two", "too"]}\n'
        '{"file_name": "9.png", "text": "nine"}\n{broken\n'
    )
    *records, broken, absent = read(f"folder:{images}")
    assert [record.captions for record in records] == [["zero"], [], ["two", "too"], []]
    assert absent.record_id == "9.png" and "no such image" in absent.reason
    assert "not valid JSON" in broken.reason

    with open(tmp_path / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows([["picture", "words"], ["1.png", "one, with a comma"]])
    source = f"folder:{images},captions={tmp_path / 'captions.csv'},image=picture,caption=words"
    assert [record.captions for record in read(source)] == [[], ["one, with a comma"], [], []]


def test_columns_of_a_table_that_is_not_there_are_refused(images):
    with pytest.raises(UserError, match=r"no table of captions .*caption=x,text=y could say which"):
        open_source(f"folder:{images},caption=x,text=y")


def test_llava_conversations(images, tmp_path):
    def turns(*texts: str) -> list[dict]:
        return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]

    entries = [
        {"id": "a", "image": "0.png", "conversations": turns("<image>\nwhat?", "a square")},
        {"id": "b", "conversations": turns("hello", "good day")},
        {"id": "c", "image": "0.png", "conversations": turns("which colour?", "blue")},
        {"id": "d", "image": ["1.png", "0.png"], "conversations": turns("<image><image>", "two")},
        {"id": "e", "image": "../0.png", "conversations": turns("<image>", "no")},
    ]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(entries))
    first, text, several, second, outside = read(f"llava:{path},images={images}")
    assert first == Record(
        "0.png",
        picture(0),
        conversations=[
            Conversation([Message("user", "<image>\nwhat?"), Message("assistant", "a square")]),
            Conversation([Message("user", "<image>\nwhich colour?"), Message("assistant", "blue")]),
        ],
    )
    assert text == Record(
        "b",
        None,
        conversations=[Conversation([Message("user", "hello"), Message("assistant", "good day")])],
    )
    assert several.image is None
    assert several.conversations[0].images == ["1.png", "0.png"]
    assert second == Record("1.png", picture(1))
    assert outside == Reject("e", "the name of its file leads upwards (../0.png)")

    out = prepare_sources([f"llava:{path},images={images}"], tmp_path / "out")
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert (counts["records"], counts["images"], counts["conversations"]) == (4, 2, 4)


def test_llava_conversations_a_line_each(images, tmp_path):
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "yes"}]
    lines = [json.dumps({"image": f"{i % 2}.png", "conversations": turns}) for i in range(4)]
    lines.insert(2, '{"image": ')
    (tmp_path / "chat.jsonl").write_text("\n\n".join(lines))
    (tmp_path / "chat.json").write_text(f"[{','.join(lines[:2] + lines[3:])}]")
    *records, broken = read(f"llava:{tmp_path / 'chat.jsonl'},images={images}")
    assert records == read(f"llava:{tmp_path / 'chat.json'},images={images}")
    assert broken.record_id == "chat.jsonl:5" and "not valid JSON" in broken.reason
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no list of conversations"):
        open_source(f"llava:{tmp_path / 'empty.jsonl'},images={images}")


def test_a_conversation_about_an_image_that_is_not_there_is_rejected(images, tmp_path):
    turns = [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "two"}]
    entries = [{"image": ["1.png", "nowhere.png"], "conversations": turns}]
    (tmp_path / "chat.json").write_text(json.dumps(entries))
    out = prepare_sources([f"llava:{tmp_path / 'chat.json'},images={images}"], tmp_path / "out")
    absent, about = map(json.loads, (out / "quarantine.jsonl").read_text().splitlines())
    assert absent["id"] == "nowhere.png" and "not there" in absent["reason"]
    assert "shows the image of nowhere.png, which is not there" in about["reason"]
    assert PreparedDataset(out).ids == ["1.png"]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrow-stream"])
def test_tables_of_images_and_captions(tmp_path, kind):
    table = pa.table(
        {
            "jpg": pa.array([{"bytes": picture(i), "path": f"{i}.png"} for i in range(5)]),
            "prompt": [["zero", "nil"], ["one"], ["two"], ["three"], []],
            "size": [1, 2, 3, 4, 5],
        }
    )
    path = tmp_path / f"shard.{kind.partition('-')[0]}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        opened = pa.ipc.new_stream if kind == "arrow-stream" else pa.ipc.new_file
        with opened(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    source = f"{kind.partition('-')[0]}:{tmp_path},image=jpg,caption=prompt"
    records = read(source)
    assert [r.image for r in records] == [picture(i) for i in range(5)]
    assert [r.captions for r in records][:2] == [["zero", "nil"], ["one"]]
    assert records[4].record_id == "shard-0000004"
    with pytest.raises(UserError, match="no column 'words' for caption; its columns are: jpg, pro"):
        open_source(f"{source.replace('=prompt', '=words')}")
    with pytest.raises(UserError, match="say which it is, such as image=COLUMN"):
        pq.write_table(table.select(["size"]), tmp_path / "other.parquet")
        open_source(f"parquet:{tmp_path / 'other.parquet'}")


def test_parquet_is_read_from_a_store(tmp_path):
    import fsspec

    for folder in ("en", "de"):
        path = tmp_path / f"{folder}.parquet"
        pq.write_table(pa.table({"text": [folder, "x"]}), path)
        with fsspec.open(f"memory://semhitok-{tmp_path.name}/{folder}/0.parquet", "wb") as file:
            file.write(path.read_bytes())
    place = f"memory://semhitok-{tmp_path.name}"
    texts = [Record(f"en/0-000000{i}", None, text=text) for i, text in enumerate(("en", "x"))]
    assert read(f"parquet:{place}/*/0.parquet")[2:] == texts
    assert [r.text for r in read(f"parquet:{place}/de/")] == ["de", "x"]
    with pytest.raises(UserError, match=r"nowhere.parquet cannot be opened"):
        open_source(f"parquet:{place}/nowhere.parquet")
    with pytest.raises(UserError, match=r"fetch .* to a disk first"):
        open_source(f"arrow:{place}/0.arrow")


def test_prepared_shards_are_a_source(images, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a story"}\n')
    out = prepare_sources([str(images), f"jsonl:{tmp_path / 't.jsonl'}"], tmp_path / "out")
    assert read(f"arrow:{out}") == list(PreparedDataset(out))


def test_vqav2_as_published(images, tmp_path):
    for number in range(2):
        (images / f"COCO_val2014_{number:012d}.jpg").write_bytes(picture(number))
    questions = {
        "info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {},
        "data_subtype": "val2014",
        "questions": [
            {"image_id": 1, "question": "What is it?", "question_id": 1000},
            {"image_id": 0, "question": "Is it red?", "question_id": 1},
            {"image_id": 1, "question": "How many?", "question_id": 1001},
            {"image_id": 7, "question": "Where?", "question_id": 7000},
        ],
    }  # fmt: skip
    annotations = {
        "annotations": [
            {
                "question_id": question_id, "image_id": 0, "question_type": "what",
                "answer_type": "other", "multiple_choice_answer": "cat",
                "answers": [
                    {"answer": "cat" if i else "dog", "answer_confidence": "yes", "answer_id": i}
                    for i in range(10)
                ],
            }
            for question_id in (1, 1000, 1001, 7000)
        ]
    }  # fmt: skip
    (tmp_path / "q.json").write_text(json.dumps(questions))
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    source = f"vqav2:{tmp_path / 'q.json'},annotations={tmp_path / 'a.json'},images={images}"
    first, second, absent = read(source)
    answers = ["dog", *["cat"] * 9]
    assert first == Record(
        "1",
        picture(1),
        questions=[
            Question("What is it?", answers, "1000"),
            Question("How many?", answers, "1001"),
        ],
    )
    assert [q.question_id for q in second.questions] == ["1"]
    assert absent == Reject("7000", "COCO_val2014_000000000007.jpg is not there")
    with pytest.raises(UserError, match="needs annotations=, such as vqav2:questions"):
        open_source(f"vqav2:{tmp_path / 'q.json'},images={images}")


def test_gqa_as_published(images, tmp_path):
    (images / "2354786.jpg").write_bytes(picture(5))
    entry = {
        "semantic": [], "entailed": [], "equivalent": ["02930152"], "question": "Is it overcast?",
        "imageId": "2354786", "isBalanced": True, "groups": {"global": None, "local": "06"},
        "answer": "no", "semanticStr": "", "annotations": {}, "types": {},
        "fullAnswer": "No, it is clear.",
    }  # fmt: skip
    path = tmp_path / "val_balanced_questions.json"
    path.write_text(json.dumps({"02930152": entry, "02930153": entry | {"answer": "yes"}}))
    assert read(f"gqa:{path},images={images}") == [
        Record(
            "2354786",
            picture(5),
            questions=[
                Question("Is it overcast?", ["no"], "02930152"),
                Question("Is it overcast?", ["yes"], "02930153"),
            ],
        )
    ]


def test_textvqa_as_published(images, tmp_path):
    (images / "003a8ae2ef43b901.jpg").write_bytes(picture(6))
    entry = {
        "image_id": "003a8ae2ef43b901", "image_classes": ["Cassette deck"], "image_width": 1024,
        "image_height": 664, "flickr_original_url": "", "flickr_300k_url": "", "question_id": 34602,
        "question": "what is the brand of this camera?", "set_name": "val",
        "question_tokens": ["what", "is"], "answers": ["dakota"] * 9 + ["clos culombu"],
    }  # fmt: skip
    path = tmp_path / "TextVQA_0.5.1_val.json"
    path.write_text(
        json.dumps({"dataset_type": "val", "dataset_version": "0.5.1", "data": [entry]})
    )
    (record,) = read(f"textvqa:{path},images={images}")
    assert record == Record(
        "003a8ae2ef43b901",
        picture(6),
        questions=[Question(entry["question"], ["dakota"] * 9 + ["clos culombu"], "34602")],
    )


def test_texts_a_line_each(tmp_path):
    path = tmp_path / "stories.jsonl"
    path.write_bytes(b'{"text": "one"}\n\n{"text": "two\\u00e9"}\n{"text": "caf\xe9"}\n[1]\n')
    one, two, bad, wrong = read(f"jsonl:{path}")
    assert one == Record("stories-0000001", None, text="one")
    assert two == Record("stories-0000003", None, text="twoé")
    assert bad == Reject("stories.jsonl:4", "the line is not UTF-8 (byte 13)")
    assert wrong.reason == "the line is a JSON list, not an object"


@pytest.fixture(scope="module")
def five_formats(tmp_path_factory) -> list[PreparedDataset]:
    """The same 500 captioned pictures, prepared from five formats."""
    root = tmp_path_factory.mktemp("formats")
    draw = np.random.default_rng(0)
    pictures = []
    for _ in range(500):
        buffer = io.BytesIO()
        size = (*draw.integers(9, 20, 2), 3)
        Image.fromarray(draw.integers(0, 256, size, np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    captions = [[f"picture {i}", f"number {i}"] for i in range(500)]
    names = [f"{i:03d}.png" for i in range(500)]

    (root / "folder").mkdir()
    (root / "bare").mkdir()
    for name, image, texts in zip(names, pictures, captions, strict=True):
        (root / "folder" / name).write_bytes(image)
        (root / "bare" / name).write_bytes(image)
        (root / "folder" / name).with_suffix(".txt").write_text("\n".join(texts))
    (root / "texts.jsonl").write_text(
        "".join(
            json.dumps({"id": name, "image": name, "caption": texts}) + "\n"
            for name, texts in zip(names, captions, strict=True)
        )
    )
    table = pa.table({"id": names, "image": pictures, "caption": captions})
    pq.write_table(table, root / "t.parquet", row_group_size=64)
    with pa.ipc.new_file(root / "t.arrow", table.schema) as writer:
        writer.write_table(table)
    with tarfile.open(root / "t.tar", "w") as archive:
        for name, image, texts in zip(names, pictures, captions, strict=True):
            add(archive, name, image)
            add(archive, f"{name[:3]}.json", json.dumps({"caption": texts}).encode())
    sources = [
        str(root / "folder"),
        f"jsonl:{root / 'texts.jsonl'},images={root / 'bare'}",
        f"parquet:{root / 't.parquet'}",
        f"arrow:{root / 't.arrow'}",
        f"webdataset:{root / 't.tar'}",
    ]
    return [
        PreparedDataset(prepare_sources(source, root / "out" / str(i), shard_size=200))
        for i, source in enumerate(sources)
    ]


def test_the_same_records_through_five_formats_give_identical_batches(five_formats):
    loaders = [
        torch.utils.data.DataLoader(PreparedImages(dataset, 8), batch_size=50)
        for dataset in five_formats
    ]
    count = 0
    for batches in zip(*loaders, strict=True):
        for other in batches[1:]:
            assert torch.equal(other["pixels"], batches[0]["pixels"])
            assert other["caption"] == batches[0]["caption"]
        count += len(batches[0]["caption"])
    assert count == 500
    texts = [[record.captions for record in dataset.texts()] for dataset in five_formats]
    assert all(each == texts[0] for each in texts) and texts[0][7] == ["picture 7", "number 7"]


def test_every_kind_is_documented_and_its_example_is_written_right():
    from data_pipelines.sources import spec as sources

    for kind, written in KINDS.items():
        assert parse_source(written.example).kind == kind
        assert f"{kind}:" in sources.__doc__


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nonsense:x", "no kind of source 'nonsense'; known are folder, llava"),
        ("jsonl:", "names no path; write jsonl:texts.jsonl"),
        ("jsonl:x.jsonl", "no such file: x.jsonl"),
        ("jsonl:x.jsonl,imges=y", "jsonl has no option 'imges'; it takes images, id"),
        ("llava:x.json", "no such file: x.json"),
        ("jsonl:x.jsonl,licence=a,text=b,licence=c", "gives licence= more than once: give it once"),
        ("parquet:nowhere", "no such file: nowhere"),
        ("parquet:no*where", "no file matches"),
        ("webdataset:nowhere.tar", "no such file: nowhere.tar"),
        ("webdataset:nowhere.tar.gz", "nowhere.tar.gz is compressed: unpack it to a .tar first"),
        ("webdataset:s{0..1}.tar", "no such file: s0.tar"),
        ("folder:nowhere", "there is no folder nowhere"),
    ],
)
def test_a_source_that_cannot_be_is_told_in_one_sentence(source, complaint):
    with pytest.raises(UserError, match=complaint):
        open_source(source)


def test_an_empty_folder_and_empty_files_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "broken.parquet").write_text("PAR")
    with pytest.raises(UserError, match="holds no image"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match="is empty"):
        open_source(f"jsonl:{tmp_path / 'empty.jsonl'}")
    with pytest.raises(UserError, match=r"broken.json is not valid JSON: line 1"):
        open_source(f"llava:{tmp_path / 'broken.json'},images={tmp_path}")
    with pytest.raises(UserError, match="is no whole parquet file"):
        open_source(f"parquet:{tmp_path / 'broken.parquet'}")
