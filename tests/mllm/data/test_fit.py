"""What cannot be trained on is found before the first step, by record, with what to do."""

import dataclasses
import random

import pytest

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.records import Conversation, Message
from mllm.data.sequences import TrainingSequences
from mllm.data.settings import MixtureSettings, TaskProportions
from mllm.data.sources import TrainingSource
from mllm.training.train import train_mllm
from runtime.errors import UserError
from tests.codes import extract
from tests.mllm.tiny import make_records, prepare_records
from tokenizer.extraction.code_shards import CodeStore


def talk(*texts, images=()):
    roles = ("user", "assistant") * len(texts)
    turns = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
    return Conversation(turns, list(images))


@pytest.fixture
def make(world, chat, tmp_path):
    """Sequences of records that were changed."""

    def make(change, max_seq_length=64, context=None, **mixture):
        records = [change(number, record) for number, record in enumerate(make_records())]
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        data = prepare_records(records, out / "data")
        codes = extract(world.tokenizer, data, out / "codes")
        proportions = TaskProportions(**{"question": 0, "drawing": 0, **mixture.pop("tasks")})
        source = TrainingSource(list(PreparedDataset(data).texts()), CodeStore(codes))
        return TrainingSequences(
            [source], chat, len(chat.text_tokenizer),
            MixtureSettings(proportions=proportions, **mixture), max_seq_length, 40, 0, context,
        )  # fmt: skip

    return make


def test_one_long_conversation_among_many_is_named_whatever_the_seed(make):
    def change(number, record):
        text = "red " * 200 if number == 7 else "red"
        return dataclasses.replace(record, conversations=[talk("what is it?<image>", text)])

    name = make_records()[7].record_id
    with pytest.raises(UserError) as refusal:
        make(change, tasks={"conversation": 1})
    said = str(refusal.value)
    assert (
        "1 record has a conversation that takes more than 64 tokens" in said and repr(name) in said
    )
    # The mend that it names works.
    needed = int(said.rpartition(" ")[2])
    assert len(make(change, max_seq_length=needed, tasks={"conversation": 1})) == 40
    with pytest.raises(UserError, match="raise max_seq_length"):
        make(change, max_seq_length=needed - 1, tasks={"conversation": 1})


def test_later_turns_that_do_not_fit_are_counted(make):
    def change(number, record):
        turns = ["what is it?<image>", "red", "red " * 200, "red"]
        return dataclasses.replace(record, conversations=[talk(*turns)])

    described = make(change, tasks={"conversation": 1}).describe()
    assert described["left_out"]["turns"] == described["conversation_documents"]


def test_questions_of_which_none_fits_are_refused_and_single_ones_counted(make):
    def long(number, record):
        questions = [dataclasses.replace(q, question="red " * 200) for q in record.questions]
        kept = record.questions[:1] if number else []
        return dataclasses.replace(record, questions=kept + questions)

    with pytest.raises(UserError, match=r"1 record has a question that takes more than 64 tokens"):
        make(long, tasks={"question": 1})

    def some(number, record):
        return long(1, record)

    described = make(some, tasks={"question": 1}).describe()
    assert described["left_out"]["questions"] == 3 * described["question_documents"]


def test_as_turns_every_question_must_fit(make):
    def change(number, record):
        long = dataclasses.replace(record.questions[0], question="red " * 200)
        return dataclasses.replace(record, questions=[*record.questions, long])

    with pytest.raises(UserError, match="12 records have a question"):
        make(change, tasks={"question": 1}, several_questions="turns")


def test_a_long_caption_is_refused(make):
    def change(number, record):
        return dataclasses.replace(
            record, captions=["a red bar", "red " * (200 if number == 3 else 1)]
        )

    with pytest.raises(UserError, match=r"1 record has a caption .* raise max_seq_length to at"):
        make(change, tasks={"drawing": 1})


def test_what_the_language_model_cannot_read_has_another_mend(make):
    with pytest.raises(UserError, match=r"the language model reads at most 9: leave them out"):
        make(lambda number, record: record, tasks={"drawing": 1}, context=9)


def test_text_is_cut_and_the_cut_is_counted(make):
    def change(number, record):
        return dataclasses.replace(record, text="a red bar " * 100)

    described = make(change, tasks={"text": 1}).describe()
    assert described["left_out"]["tokens"] > 100 * described["text_documents"]


def test_bytes_bound_the_tokens(chat):
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(chr(rng.choice([65, 228, 0x4E2D, 0x1F600, 32, 10])) for _ in range(40))
        answer = text[: rng.randrange(40)]
        asked = chat.question_ids(text)
        bound = chat.most_tokens([text, answer], 1)
        assert chat.length(asked) + len(chat.answer(text, answer)) <= bound


def test_marks_without_images_are_found_before_the_first_step(world, chat):
    source = TrainingSource(list(PreparedDataset(world.data).texts()), CodeStore(world.codes))
    record = source.records[5]
    told = talk("<image>is it <image>?", "no", images=[record.record_id])
    source.records[5] = dataclasses.replace(record, conversations=[told])
    mixture = MixtureSettings(proportions=TaskProportions(conversation=1))
    with pytest.raises(UserError, match=r"a conversation of '.*': 2 image marks, but 1 images"):
        TrainingSequences([source], chat, len(chat.text_tokenizer), mixture, 64, 40, 0)


def test_a_record_without_codes_is_found_before_the_first_step(world, chat):
    source = TrainingSource(list(PreparedDataset(world.data).texts()), CodeStore(world.codes))
    told = talk("<image>is it red?", "no", images=["elsewhere"])
    source.records[5] = dataclasses.replace(source.records[5], conversations=[told])
    mixture = MixtureSettings(proportions=TaskProportions(conversation=1))
    with pytest.raises(UserError, match="has no codes for the record 'elsewhere'"):
        TrainingSequences([source], chat, len(chat.text_tokenizer), mixture, 64, 40, 0)


def test_a_refused_run_can_be_mended_in_its_folder(world, tmp_path):
    settings = world.phase(tmp_path / "run", max_seq_length=10, num_steps=2)
    with pytest.raises(UserError, match="raise max_seq_length to at least"):
        train_mllm(settings)
    assert train_mllm(settings.model_copy(update={"max_seq_length": 64})).is_dir()


def test_weights_of_zero_for_every_label_are_refused():
    with pytest.raises(ValueError, match="every label would have the weight 0"):
        MixtureSettings(answer_weight=0, drawing_weight=0)
    assert MixtureSettings(answer_weight=0).drawing_weight == 1
