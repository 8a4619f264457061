import dataclasses

import numpy as np
import pytest

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.records import Conversation, Message, Record
from mllm.data.sequences import Planned, TrainingSequences
from mllm.data.settings import MixtureSettings, TaskProportions
from mllm.data.sources import TrainingSource
from runtime.errors import UserError
from tests.codes import extract
from tests.mllm.tiny import flat, make_records, prepare_records
from tokenizer.extraction.code_shards import CodeStore

QUESTIONS = {"question": 1.0, "drawing": 0.0}
DRAWINGS = {"question": 0.0, "drawing": 1.0}


@pytest.fixture
def make_rows(world, chat):
    def make(
        num_rows=40, seed=0, max_seq_length=64, data=None, codes=None, shares=None, sources=None,
        packing=True, batch=4, context=None, **mixture,
    ):  # fmt: skip
        if sources is None:
            records = PreparedDataset(data or world.data)
            sources = [TrainingSource(list(records.texts()), CodeStore(codes or world.codes))]
        return TrainingSequences(
            sources,
            chat,
            len(chat.text_tokenizer),
            MixtureSettings(proportions=TaskProportions(**shares or {}), **mixture),
            max_seq_length,
            num_rows,
            seed,
            context,
            packing,
            batch,
        )

    return make


def test_rows_are_a_function_of_the_seed(make_rows):
    first, second, other = make_rows(), make_rows(), make_rows(seed=1)
    assert [first[i] for i in range(40)] == [second[i] for i in range(40)]
    assert [first[i] for i in range(40)] != [other[i] for i in range(40)]


def test_a_row_does_not_depend_on_the_rows_read_before(make_rows):
    rows = make_rows()
    in_order = [rows[i] for i in range(40)]
    shuffled = make_rows()
    for i in np.random.default_rng(0).permutation(40):
        assert shuffled[int(i)] == in_order[i]
    assert rows[7] == in_order[7]


def test_a_longer_run_begins_like_a_shorter_one(make_rows):
    short, long = make_rows(20), make_rows(60)
    assert [short[i] for i in range(20)] == [long[i] for i in range(20)]


def test_rows_fit_and_hold_each_document_of_the_plan_once(make_rows):
    rows = make_rows(200)
    assert all(0 < sum(map(len, rows[i])) <= 64 for i in range(200))
    numbers = [chosen.number for row in rows._plan for chosen in row]
    assert len(numbers) == len(set(numbers))


def placeholder(name):
    return range(4)


def test_a_tenth_of_the_captions_is_dropped(make_rows, chat):
    rows = make_rows(1, shares=DRAWINGS, caption_dropout=0.1)
    bare = len(chat.drawing(""))
    dropped = sum(
        flat(rows._document(Planned("drawing", 0, number % 12, 0, number), placeholder)).token_ids[
            bare - 1
        ]
        == chat.begin_of_image_id
        for number in range(2000)
    )
    assert pytest.approx(dropped / 2000, abs=0.02) == 0.1  # three standard deviations
    for share, expected in ((0.0, 0), (1.0, 50)):
        rows = make_rows(1, shares=DRAWINGS, caption_dropout=share)
        lengths = [
            len(rows._document(Planned("drawing", 0, 0, 0, n), placeholder)) for n in range(50)
        ]
        assert sum(length == bare + 4 + 2 for length in lengths) == expected


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_question_share_is_kept(make_rows, share):
    counts = make_rows(400, shares={"question": share, "drawing": 1 - share}).describe()
    questions, drawings = counts["question_documents"], counts["drawing_documents"]
    assert questions / (questions + drawings) == pytest.approx(share, abs=0.02)


def test_every_record_comes_before_one_comes_again(make_rows):
    rows = make_rows(60)
    for task in ("question", "drawing"):
        planned = sorted((c.number, c.record) for row in rows._plan for c in row if c.task == task)
        records = [record for _, record in planned]
        # Rows that are still open at the end of a plan hold back a few documents.
        assert len(set(records[:12])) >= 11


def test_documents_carry_the_codes_of_their_record(make_rows, world, chat):
    rows, codes = make_rows(), CodeStore(world.codes)
    offset = len(chat.text_tokenizer)
    for i in range(10):
        for chosen, document in zip(rows._plan[i], rows[i], strict=True):
            name = rows.sources[0].records[chosen.record].record_id
            images = [t - offset for t in flat(document).token_ids if t >= offset]
            assert images == codes.flat(name).tolist()


def test_each_document_takes_one_of_the_crops_by_the_seed(make_rows, world, tmp_path):
    codes = extract(world.tokenizer, world.data, tmp_path, num_crops=3)
    store, plain = CodeStore(codes), make_rows(60)
    rows, again, other = (make_rows(60, codes=codes, seed=seed) for seed in (0, 0, 1))
    assert [rows[i] for i in range(60)] == [again[i] for i in range(60)]
    taken, changed, seen = set(), 0, {}
    for i in range(60):
        for chosen, document in zip(rows._plan[i], rows[i], strict=True):
            name = rows.sources[0].records[chosen.record].record_id
            images = [t - rows.offset for t in flat(document).token_ids if t >= rows.offset]
            matches = [c for c in range(3) if store.flat(name, c).tolist() == images]
            assert matches
            taken |= set(matches) if len(matches) == 1 else set()
            changed += seen.setdefault(name, images) != images
    assert taken == {0, 1, 2}
    assert changed  # another crop when the record comes again
    assert [rows[i] for i in range(60)] != [other[i] for i in range(60)]
    # The crops change the images alone: captions and questions are drawn as ever.
    for i in range(60):
        for document, same in zip(rows[i], plain[i], strict=True):
            text = [t for t in flat(document).token_ids if t < rows.offset]
            assert text == [t for t in flat(same).token_ids if t < rows.offset]


def test_labels_and_weights_are_those_of_the_mixture(make_rows, chat):
    rows = make_rows(answer_weight=2.0, drawing_weight=10.0)
    offset = len(chat.text_tokenizer)
    for i in range(10):
        for chosen, document in zip(rows._plan[i], rows[i], strict=True):
            labels = [label for label in flat(document).labels if label != -100]
            if chosen.task == "drawing":
                assert len(labels) == 4 and min(labels) >= offset
                assert sum(flat(document).weights) == pytest.approx(10.0)
            else:
                assert max(labels) < offset
                assert sum(flat(document).weights) == pytest.approx(
                    2.0 * max(flat(document).suffixes)
                )


def test_describe_counts_the_padding(make_rows):
    rows = make_rows(50)
    used = sum(len(document) for i in range(50) for document in rows[i])
    assert rows.describe()["padding_fraction"] == pytest.approx(1 - used / (50 * 64))
    assert rows.describe()["sequences"] == len(rows) == 50


def test_a_sequence_shorter_than_a_document_is_one_sentence(make_rows):
    with pytest.raises(UserError, match="12 records have a question that takes more than 8 tokens"):
        make_rows(max_seq_length=8)


def test_data_without_what_the_mixture_wants_is_one_sentence(make_rows, tmp_path):
    records = make_records()
    bare = [dataclasses.replace(record, questions=[]) for record in records]
    data = prepare_records(bare, tmp_path / "captions")
    with pytest.raises(UserError, match=r"no record has a question; set mixture\.proportions"):
        make_rows(data=data)
    assert len(make_rows(data=data, shares=DRAWINGS)) == 40
    asked = [dataclasses.replace(record, captions=[]) for record in records]
    data = prepare_records(asked, tmp_path / "questions")
    with pytest.raises(UserError, match=r"no record has a caption; set mixture\.proportions"):
        make_rows(data=data)
    assert len(make_rows(data=data, shares=QUESTIONS)) == 40


def test_a_share_out_of_range_is_an_error():
    with pytest.raises(ValueError, match="less than or equal to 1"):
        MixtureSettings(caption_dropout=1.5)


def test_records_without_codes_are_one_sentence(make_rows, tmp_path):
    renamed = [dataclasses.replace(r, record_id=f"new-{r.record_id}") for r in make_records()]
    data = prepare_records(renamed, tmp_path / "other")
    with pytest.raises(UserError, match="has no codes for the record 'new-"):
        make_rows(data=data)[0]


@pytest.fixture(scope="module")
def rich(world, tmp_path_factory):
    """A source with conversations over several records' images, and one of plain text alone."""
    root = tmp_path_factory.mktemp("rich")
    records = make_records()
    names = [record.record_id for record in records]
    about_two = Conversation(
        [Message("user", "<image>is it <image>?"), Message("assistant", "no")], [names[3], names[1]]
    )
    own = Conversation([Message("user", "what is it?<image>"), Message("assistant", "red")])
    told = [dataclasses.replace(records[0], conversations=[about_two, own]), *records[1:]]
    images = prepare_records(told, root / "images")
    texts = [Record(f"text-{i}", None, text=f"a red bar number {i}") for i in range(5)]
    plain = prepare_records(texts, root / "texts")
    codes = extract(world.tokenizer, images, root / "codes")
    return [
        TrainingSource(list(PreparedDataset(images).texts()), CodeStore(codes), 1.0),
        TrainingSource(list(PreparedDataset(plain).texts()), None, 1.0),
    ]


ALL = {"question": 0.3, "drawing": 0.2, "conversation": 0.3, "text": 0.2}


def test_every_task_comes_as_often_as_its_share_says(make_rows, rich):
    counts = make_rows(300, shares=ALL, sources=rich).describe()
    total = sum(counts[f"{task}_documents"] for task in ALL)
    for task, share in ALL.items():
        assert counts[f"{task}_documents"] / total == pytest.approx(share, abs=0.02)


def test_a_conversation_carries_the_codes_of_the_records_it_names(make_rows, rich):
    rows = make_rows(40, shares={"question": 0, "drawing": 0, "conversation": 1}, sources=rich)
    names = [record.record_id for record in make_records()]
    wanted = {0: [names[3], names[1]], 1: [names[0]]}
    seen = set()
    for i in range(40):
        for chosen, document in zip(rows._plan[i], rows[i], strict=True):
            images = [t - rows.offset for t in flat(document).token_ids if t >= rows.offset]
            codes = [rich[0].codes.flat(name).tolist() for name in wanted[chosen.item]]
            assert images == [code for image in codes for code in image]
            seen.add(chosen.item)
    assert seen == {0, 1}


def test_sources_are_taken_by_their_weights(make_rows, rich, world):
    other = TrainingSource(list(PreparedDataset(world.data).texts()), CodeStore(world.codes), 3.0)
    rows = make_rows(300, shares=QUESTIONS, sources=[rich[0], other])
    taken = [chosen.source for row in rows._plan for chosen in row]
    assert sum(taken) / len(taken) == pytest.approx(0.75, abs=0.01)
    first = [c.record for row in rows._plan for c in row if c.source == 0][:12]
    second = [c.record for row in rows._plan for c in row if c.source == 1][:12]
    assert first != second  # each has an order of its own


def test_a_task_that_no_source_has_is_one_sentence(make_rows):
    for task, noun in (("conversation", "conversation"), ("text", "text")):
        with pytest.raises(
            UserError, match=rf"no record has a {noun}; set mixture\.proportions\.{task}"
        ):
            make_rows(shares={task: 1.0})


def test_questions_may_be_turns_of_one_conversation(make_rows):
    shared, turns = (
        make_rows(20, shares=QUESTIONS, several_questions=way) for way in ("shared_prefix", "turns")
    )
    for i in range(20):
        assert all(not any(flat(document).suffixes) for document in turns[i])
        assert any(any(flat(document).suffixes) for document in shared[i])
    labels = [sum(label != -100 for label in flat(document).labels) for document in turns[0]]
    assert min(labels) >= 6  # three answers and their ends


def test_without_packing_rows_of_a_step_are_about_as_long(make_rows):
    rows = make_rows(64, shares={"question": 1, "drawing": 1}, packing=False)
    assert all(len(rows[i]) == 1 for i in range(64))
    numbers = [chosen.number for row in rows._plan for chosen in row]
    assert len(set(numbers)) == 64 and numbers != sorted(numbers)
    spread = [
        max(lengths) - min(lengths)
        for lengths in ([len(rows[i][0]) for i in range(s, s + 4)] for s in range(0, 64, 4))
    ]
    lengths = [len(rows[i][0]) for i in range(64)]
    assert sum(spread) / len(spread) < 0.3 * (max(lengths) - min(lengths))
    assert [rows[i] for i in range(64)] == [
        make_rows(64, shares={"question": 1, "drawing": 1}, packing=False)[i] for i in range(64)
    ]


def test_a_document_longer_than_the_context_is_one_sentence(make_rows):
    with pytest.raises(UserError, match="the language model reads at most 12"):
        make_rows(context=12)
    assert len(make_rows(context=64)) == 40


def test_more_rows_are_planned_than_ahead_only_as_they_are_read(make_rows, monkeypatch):
    whole = make_rows(40)
    monkeypatch.setattr("mllm.data.sequences.PLANNED_AHEAD", 5)
    lazy = make_rows(40)
    assert len(lazy._plan) == 5 and len(lazy) == 40
    assert lazy[30] == whole[30] and lazy[2] == whole[2]
    assert len(lazy._plan) == 31
