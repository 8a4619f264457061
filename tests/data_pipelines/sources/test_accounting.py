"""Records and rejects together are what went in, by id and text, whatever is broken in it."""

import contextlib
import io
import json
import random
import re
import shutil
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.records import RecordText
from runtime.errors import UserError
from tests.data_pipelines.small_sources import picture
from tests.prepared import prepare_sources

NUM_SETS = 200
GOOD_TEXTS = (
    "a cat", "zwei Kätzchen", "line\u2028separated", "  blanks ", "e\u0301", "\ufeffmarked",
    "odd\x0b\x0c\x1c\x1d\x85\u2029lines", "two\r\nlines",
)  # fmt: skip
ACCENTED = "Ångström é"
BAD_TEXTS = ("", " \n", "nul\0", "half \ud800", "x" * 20_001)
NO_IDS: tuple[Any, ...] = ("", " ", [1], True)
NO_TEXTS = (None, 3, True, {}, [[]], {"a": 1})


class Draws(random.Random):
    """Random choices, with an account of the texts that they put into entries."""

    def __init__(self, seed: str):
        super().__init__(seed)
        self.offered: list[tuple[str, str, str]] = []
        """A mark in each text, its kind, and the id of its entry."""
        self._open: list[tuple[str, str]] = []
        self._count = 0

    def offer(self, kind: str, words: str) -> str:
        """A text of an entry; one that says something gets a mark of its own."""
        if not words.strip():
            return words
        self._count += 1
        self._open.append((f"~{self._count}~", kind))
        return f"{words} ~{self._count}~"

    def close(self, entry_id: str) -> None:
        """Give the entry of the texts since the last call its id."""
        self.offered += [(mark, kind, entry_id) for mark, kind in self._open]
        self._open.clear()


def text(rng: Draws, kind: str) -> Any:
    """A text, which is bad in one case of four."""
    return rng.offer(kind, rng.choice(rng.choice([GOOD_TEXTS] * 3 + [BAD_TEXTS])))


def value(rng: Draws, kind: str) -> Any:
    """A text, or what should be one."""
    return rng.choice(NO_TEXTS) if rng.random() < 0.15 else text(rng, kind)


def image(rng: Draws) -> bytes:
    """An image file, which is bad in one case of four."""
    data = picture(rng.randrange(1000))
    return rng.choice([data] * 3 + [rng.choice([b"", b"no image", data[:60], data[:-20]])])


class Images:
    """A folder of some good and some bad images."""

    def __init__(self, rng: Draws, folder: Path, ending: str = ".png"):
        folder.mkdir()
        self.names = [f"{number}{ending}" for number in range(6)]
        for name in (*self.names, form(rng, ACCENTED + ending)):
            if rng.random() < 0.8:
                (folder / name).write_bytes(image(rng))
        self.ending = ending

    def name(self, rng: Draws) -> Any:
        """A name, of which some are not there."""
        accented = form(rng, ACCENTED + self.ending)
        return rng.choice([*self.names * 2, accented, accented, "nowhere.png", "../up.png", 7])


def form(rng: Draws, name: str) -> str:
    """A name in one of the Unicode forms that it may have."""
    return unicodedata.normalize(rng.choice(["NFC", "NFD"]), name)


def repeated(rng: Draws, ids: list[Any]) -> Any:
    """One of the ids that there are, sometimes; else a new one."""
    return rng.choice(ids) if ids and rng.random() < 0.15 else f"own-{len(ids)}"


def turns(rng: Draws, entry_id: str) -> Any:
    """A conversation whose question names its entry; not all are good."""
    asked = {"from": rng.choice(["human", "USER"]), "value": f"<image>\n{entry_id}?"}
    shape = rng.choice(["as"] * 4 + ["sa", "a", "", None, "no turns", "s"])
    if shape in (None, "no turns"):
        return shape
    said = {"from": rng.choice(["gpt", "bing"])}
    return [
        asked if letter == "a" else said | {"value": value(rng, "conversation")} for letter in shape
    ]


def folder(rng: Draws, root: Path) -> tuple[str, list[str]]:
    (root / "f" / "below").mkdir(parents=True)
    ids = []
    for number in range(rng.randrange(1, 7)):
        stem = form(rng, f"{ACCENTED} {number}") if rng.random() < 0.2 else str(number)
        name = rng.choice(["", "below/"]) + stem + rng.choice([".png", ".JPG"])
        ids.append(unicodedata.normalize("NFC", name))
        path = root / "f" / name
        path.write_bytes(image(rng))
        if rng.random() < 0.6:
            words = text(rng, "caption").encode("utf-8", "surrogatepass")
            rng.close(ids[-1])
            path.with_suffix(rng.choice([".txt", ".TXT"])).write_bytes(words)
        if rng.random() < 0.2:
            path.with_name(f"._{path.name}").write_bytes(b"what macOS leaves")
    if rng.random() < 0.4:  # a table, some of whose lines name no image of the folder
        names = [rng.choice(ids) if rng.random() < 0.5 else f"no-{n}.png" for n in range(3)]
        rows = []
        for name in names:
            rows.append({"file_name": form(rng, name), "caption": value(rng, "caption")})
            rng.close(name)
        lines = [json.dumps(row) for row in rows] + ["{"]
        mark = rng.choice(["", "\ufeff"])
        (root / "f" / "metadata.jsonl").write_text(mark + "\n".join(lines), encoding="utf-8")
        for number, row in enumerate(rows, start=1):  # what is no caption is named by its line
            if isinstance(row["caption"], bool | dict | list):
                ids.append(f"metadata.jsonl:{number}")
            elif row["file_name"].startswith("no-"):
                ids.append(row["file_name"])
        ids.append("metadata.jsonl:4")
    return f"folder:{root / 'f'}", ids


def jsonl(rng: Draws, root: Path) -> tuple[str, list[str]]:
    images = Images(rng, root / "i")
    ids, lines = [], []
    for number in range(1, rng.randrange(2, 8)):
        row: dict[str, Any] = {"image": images.name(rng)} if rng.random() < 0.7 else {}
        for key in ("caption", "text", "question", "answer", "foo"):
            if rng.random() < 0.4:
                one = value(rng, key)
                row[key] = [one, value(rng, key)] if key == "caption" else one
        if rng.random() < 0.3:
            answers = [value(rng, "answer"), "b"]
            row["questions"] = [{"question": value(rng, "question"), "answers": answers}]
        if rng.random() < 0.3:
            row["conversations"] = turns(rng, "x")
        if rng.random() < 0.4:
            row["id"] = repeated(rng, ids)
        elif rng.random() < 0.2:
            row["id"] = rng.choice(NO_IDS)
        line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        if rng.random() < 0.1:
            line = rng.choice([b"{", b"[1]", b'{"a": \x01}', b'{"text": "\xff"}'])
            ids.append(f"t.jsonl:{number}")
        elif b"\xed\xa0\x80" in line:  # half a character is no UTF-8
            ids.append(f"t.jsonl:{number}")
        else:
            ids.append(row["id"] if row.get("id") not in (None, *NO_IDS) else f"t-{number:07d}")
        rng.close(ids[-1])
        lines.append(line)
    lines.append(b'{"text": "one that is good"}')
    ids.append(f"t-{len(lines):07d}")
    mark, end = rng.choice([b"", b"\xef\xbb\xbf"]), rng.choice([b"\n", b"\r\n"])
    (root / "t.jsonl").write_bytes(mark + end.join(lines) + rng.choice([b"", end, end + end]))
    return f"jsonl:{root / 't.jsonl'},images={root / 'i'}", ids


def llava(rng: Draws, root: Path) -> tuple[str, list[str]]:
    images = Images(rng, root / "i")
    ids, entries = [], []  # type: list[str], list[Any]
    lines = rng.random() < 0.5
    for number in range(rng.randrange(1, 8)):
        entry: Any = {"id": repeated(rng, ids)}
        entry_id = entry["id"]
        if rng.random() < 0.1:
            entry_id = f"c-{number:07d}"
            entry = rng.choice([{}, *({"id": each} for each in NO_IDS)])
        entry["conversations"] = turns(rng, entry_id)
        shown = rng.choice([images.name(rng), None, "", [], [images.name(rng)] * 2])
        if rng.random() < 0.8:
            entry[rng.choice(["image", "images"])] = shown
        if rng.random() < 0.05:
            entry = rng.choice([None, 3, "text", []])
            entry_id = f"c.jsonl:{number + 1}" if lines else f"c-{number:07d}"
        ids.append(entry_id)
        entries.append(entry)
        rng.close(entry_id)
    path = root / ("c.jsonl" if lines else "c.json")
    written = "\n".join(map(json.dumps, entries)) if lines else json.dumps(entries)
    path.write_text(rng.choice(["", "\ufeff"]) + written, encoding="utf-8")
    return f"llava:{path},images={root / 'i'}", ids


def table(rng: Draws, root: Path, kind: str, default: str = "t-{:07d}") -> tuple[str, list[str]]:
    count = rng.randrange(1, 8)
    ids = [default.format(number) for number in range(count)]
    own: list[str] = []
    for _ in range(count):
        own.append(repeated(rng, own))
    own_ids = [rng.choice([one] * 4 + [None, ""]) for one in own] if rng.random() < 0.4 else None
    ids = [own_id or name for own_id, name in zip(own_ids or ids, ids, strict=True)]
    captions: list[bytes | None] = []
    asked: list[str | None] = []
    for entry_id in ids:
        kept = rng.random() < 0.8
        caption = text(rng, "caption").encode("utf-8", "surrogatepass") if kept else None
        captions.append(caption)
        is_asked = rng.random() < 0.8
        asked.append(rng.offer("question", rng.choice(GOOD_TEXTS)) if is_asked else None)
        rng.close(entry_id)
    images = [image(rng) if rng.random() < 0.8 else None for _ in range(count)]
    columns = {
        "image": pa.array(images, pa.binary()),
        "caption": pa.array(captions, pa.binary()),
        "question": pa.array(asked, pa.string()),
        "answers": pa.array([rng.choice([["a"], [], None, ["", "b"]]) for _ in range(count)]),
    }
    if rng.random() < 0.4:
        columns["image"] = pa.array(
            [{"bytes": data, "path": "a.png"} for data in columns["image"].to_pylist()],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    if own_ids is not None:
        columns["id"] = pa.array(own_ids, pa.string())
    found = pa.table(columns)
    if kind == "parquet":
        pq.write_table(found, root / "t.parquet", row_group_size=2)
    else:
        with pa.ipc.new_file(str(root / "t.arrow"), found.schema) as writer:
            writer.write_table(found, max_chunksize=2)
    return f"{kind}:{root}/t.{kind}", ids


def parquet(rng: Draws, root: Path) -> tuple[str, list[str]]:
    return table(rng, root, "parquet")


def arrow(rng: Draws, root: Path) -> tuple[str, list[str]]:
    return table(rng, root, "arrow")


def hub(rng: Draws, root: Path) -> tuple[str, list[str]]:
    (root / "set").mkdir()
    _, ids = table(rng, root / "set", "parquet", "set-train-{:07d}")
    # Without its own list of files the library looks for them in a hundred places.
    (root / "set" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: t.parquet\n---\n"
    )
    return f"hub:{root / 'set'}", ids


def webdataset(rng: Draws, root: Path) -> tuple[str, list[str]]:
    ids = []
    with tarfile.open(root / "t.tar", "w") as archive:

        def add(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            archive.addfile(member, io.BytesIO(data))

        for number in range(rng.randrange(1, 7)):
            stem = form(rng, f"{ACCENTED} {number}") if rng.random() < 0.2 else str(number)
            name = rng.choice(["", "./", "d/"]) + stem
            ids.append(unicodedata.normalize("NFC", "t/" + name.removeprefix("./")))
            parts: dict[str, bytes] = {"jpg": image(rng)} if rng.random() < 0.8 else {}
            if rng.random() < 0.6 or not parts:
                parts["txt"] = text(rng, "caption").encode("utf-8", "surrogatepass")
            if rng.random() < 0.3:
                found = {"question": value(rng, "question"), "answer": "yes"}
                found |= {"caption": value(rng, "caption")} if rng.random() < 0.5 else {}
                parts["json"] = rng.choice([b"{", b"[]", *[json.dumps(found).encode()] * 2])
            rng.close(ids[-1])
            if rng.random() < 0.2:
                parts[rng.choice(["cls", "seg.png", "pkl", "png"])] = b"1"
            for ending, data in parts.items():
                if rng.random() < 0.2:
                    add(f"{name.rpartition('/')[0] or '.'}/._{number}.{ending}", b"mac")
                add(f"{name}.{ending}", data)
            if rng.random() < 0.1:  # a second sample of the name
                add(f"{name}.{next(iter(parts))}", image(rng))
                ids.append(ids[-1])
            if rng.random() < 0.1:
                add(f"{name}.link", b"", tarfile.SYMTYPE)
    return f"webdataset:{root / 't.tar'}", ids


def questions(rng: Draws, default: str = "q#{}") -> tuple[list[Any], list[str]]:
    """Questions about images, some without what they need; and what each is called."""
    asked: list[Any] = []
    ids: list[str] = []
    for number in range(rng.randrange(1, 9)):
        entry: Any = {"question_id": number, "image_id": rng.choice([0, 1, 2, 3, 9, None, "x"])}
        if rng.random() < 0.15:
            entry["question_id"] = rng.choice([0, None, "own"])
        answers = [value(rng, "answer"), "b"]
        entry |= {"question": value(rng, "question"), "answers": answers}
        entry["answer"] = value(rng, "answer")
        entry = {key: found for key, found in entry.items() if rng.random() < 0.95}
        if rng.random() < 0.05:
            entry = rng.choice([None, 3, "text", []])
        own = entry.get("question_id") if isinstance(entry, dict) else None
        ids.append(default.format(number) if own is None else str(own))
        rng.close(ids[-1])
        asked.append(entry)
    return asked, ids


def vqav2(rng: Draws, root: Path) -> tuple[str, list[str]]:
    images = Images(rng, root / "i", ".jpg")
    for name in images.names:
        if (root / "i" / name).exists():
            (root / "i" / name).rename(root / "i" / f"COCO_val2014_{int(name[0]):012d}.jpg")
    asked, ids = questions(rng)
    answered: list[Any] = [
        {
            "question_id": row.get("question_id"),
            "answers": [rng.choice([{"answer": value(rng, "answer")}, {}, None]), {"answer": "b"}],
        }
        for row in asked
        if isinstance(row, dict) and rng.random() < 0.9
    ]
    answered += [{"question_id": 99, "answers": []}, rng.choice([None, 3, {}])]
    mark = rng.choice(["", "\ufeff"])
    (root / "q.json").write_text(mark + json.dumps({"data_subtype": "val2014", "questions": asked}))
    (root / "a.json").write_text(mark + json.dumps({"annotations": answered}))
    return f"vqav2:{root / 'q.json'},annotations={root / 'a.json'},images={root / 'i'}", ids


def gqa(rng: Draws, root: Path) -> tuple[str, list[str]]:
    Images(rng, root / "i", ".jpg")
    asked, ids = questions(rng, "{}")
    texts = [json.dumps(entry).replace('"image_id"', '"imageId"') for entry in asked]
    lines = ",\n".join(f"{json.dumps(key)}: {text}" for key, text in zip(ids, texts, strict=True))
    (root / "q.json").write_text(f"{{{lines}}}")
    return f"gqa:{root / 'q.json'},images={root / 'i'}", ids


def textvqa(rng: Draws, root: Path) -> tuple[str, list[str]]:
    Images(rng, root / "i", ".jpg")
    asked, ids = questions(rng)
    (root / "q.json").write_text(json.dumps({"data": asked}))
    return f"textvqa:{root / 'q.json'},images={root / 'i'}", ids


def entries_of(kind: str, record: RecordText) -> list[str]:
    """Ids of the entries that an accepted record holds."""
    if kind in ("vqav2", "gqa", "textvqa"):
        return [question.question_id for question in record.questions]
    if kind == "llava":
        spoken = [found.messages for found in record.conversations]
        asked = [next(m.content for m in messages if m.role == "user") for messages in spoken]
        return [content.rpartition("\n")[2].rstrip("?") for content in asked]
    return [record.record_id]


def ids_in(path: Path) -> list[str]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["id"] for line in lines]


FORMATS = (folder, jsonl, llava, parquet, arrow, hub, webdataset, vqav2, gqa, textvqa)


def check_set(kind: str, make: Any, seed: int, root: Path) -> int:
    """Prepare a random set, and compare what came out with what went in; returns the records."""
    root.mkdir()
    rng = Draws(f"{kind} {seed}")
    source, ids = make(rng, root)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            out = prepare_sources(source, root / "out", shard_size=rng.choice([2, 50]))
    except UserError as error:
        assert "no record could be used" in str(error) or "no column" in str(error), error
        if "no column" in str(error):
            return 0  # of no line at all
        accepted: list[RecordText] = []
    else:
        accepted = list(PreparedDataset(out).texts())
    rejected = ids_in(root / "out" / "quarantine.jsonl")
    kept = Counter(entry for record in accepted for entry in entries_of(kind, record))
    images = {f"{number}.png" for number in range(6)} | {"nowhere.png", "../up.png", "7"}
    images.add(unicodedata.normalize("NFC", f"{ACCENTED}.png"))
    lost = Counter(name for name in rejected if not (kind == "llava" and name in images))
    assert kept + lost == Counter(ids), (seed, kept, lost, ids)
    # A part that is rejected alone is one of a record that stays.
    stays = {record.record_id for record in accepted} | set(kept)
    stays |= {question.question_id for record in accepted for question in record.questions}
    parts = ids_in(root / "out" / "rejected_parts.jsonl")
    assert {name.rpartition("#")[0] for name in parts} <= stays
    assert all("#" in name for name in parts) and len(set(parts)) == len(parts)
    check_texts(rng, accepted, rejected, parts, told.getvalue())
    return len(accepted)


def check_texts(
    rng: Draws, accepted: list[RecordText], rejected: list[str], parts: list[str], told: str
) -> None:
    """Each caption, question and conversation is in a record, rejected, or named as not read."""
    there: Counter[str] = Counter()
    for record in accepted:
        questions = [question.question for question in record.questions]
        spoken = [m.content for found in record.conversations for m in found.messages]
        for words in (*record.captions, *questions, *spoken):
            there.update(re.findall("~[0-9]+~", words))
    assert all(count == 1 for count in there.values()), there
    lost = Counter(
        (entry_id, kind)
        for mark, kind, entry_id in rng.offered
        if kind in ("caption", "question", "conversation")
        and mark not in there
        and entry_id not in rejected
        and f"{kind} (of " not in told  # a column
        and not (kind == "caption" and "belong to no image and were not read" in told)  # a file
    )
    for (entry_id, kind), count in lost.items():
        found = sum(
            name.startswith((f"{entry_id}#{kind}", f"{entry_id}-0#{kind}")) for name in parts
        )
        assert found >= count, (entry_id, kind, parts, told)


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_a_few_sets_are_accounted_for(make, tmp_path):
    assert sum(check_set(make.__name__, make, seed, tmp_path / str(seed)) for seed in range(8))


def test_parts_of_a_record_that_is_rejected_late_go_with_it(tmp_path):
    rows = [
        {"id": "a", "text": "one", "caption": "about no image"},
        {"id": "a", "text": "two", "caption": "about no image"},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare_sources(f"jsonl:{tmp_path / 't.jsonl'}", tmp_path / "out")
    assert ids_in(tmp_path / "out" / "quarantine.jsonl") == ["a"]
    assert ids_in(tmp_path / "out" / "rejected_parts.jsonl") == ["a#caption-1"]


def test_parts_keep_the_numbers_that_they_came_with(tmp_path):
    row = {"id": "a", "image": "a.png", "caption": [{}, "good", "nul\0"]}
    row["questions"] = [{"question": "?", "answers": [{}, "", "yes"]}]
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    out = prepare_sources(f"jsonl:{tmp_path / 't.jsonl'},images={tmp_path}", tmp_path / "out")
    assert ids_in(out / "rejected_parts.jsonl") == [
        "a#caption-1", "a#caption-3", "a-0#answer-1", "a-0#answer-2",
    ]  # fmt: skip
    (record,) = PreparedDataset(out).texts()
    assert record.captions == ["good"] and record.questions[0].answers == ["yes"]


def test_a_csv_line_with_other_cells_than_the_header_is_no_caption_cut_short(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    lines = "file_name,text\na.png,a cat, asleep\n\na.png,a cat\na.png\n,nothing\n"
    (tmp_path / "metadata.csv").write_text(lines)
    out = prepare_sources(f"folder:{tmp_path}", tmp_path.with_name("out"))
    names = ["metadata.csv:2", "metadata.csv:5", "metadata.csv:6"]
    assert ids_in(out / "quarantine.jsonl") == names
    (record,) = PreparedDataset(out).texts()
    assert record.captions == ["a cat"]


def test_two_folders_of_one_name_and_card_are_two_data_sets(tmp_path):
    sizes = {}
    for parent, count in (("a", 2), ("b", 3), ("a", 4)):
        folder = tmp_path / parent / "set"
        folder.mkdir(parents=True, exist_ok=True)
        card = "---\nconfigs:\n- config_name: default\n  data_files: t.parquet\n---\n"
        (folder / "README.md").write_text(card)
        pq.write_table(pa.table({"text": ["a"] * count}), folder / "t.parquet")
        out = prepare_sources(f"hub:{folder}", tmp_path / f"out-{count}")
        sizes[count] = len(list(PreparedDataset(out).texts()))
    assert sizes == {2: 2, 3: 3, 4: 4}


@pytest.mark.slow
@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_two_hundred_sets_are_accounted_for(make, tmp_path):
    found = 0
    for seed in range(NUM_SETS):
        found += check_set(make.__name__, make, seed, tmp_path / str(seed))
        shutil.rmtree(tmp_path / str(seed))
    assert found > NUM_SETS / 4
