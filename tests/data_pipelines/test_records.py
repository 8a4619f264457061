import pyarrow as pa

from data_pipelines.records import (
    SCHEMA,
    Conversation,
    Message,
    Question,
    Record,
    record_from_row,
    record_to_row,
)


def test_a_record_survives_the_trip_through_the_table():
    record = Record(
        "a/b.png",
        b"\x89PNG\x00",
        ["a cat", "ein Kätzchen"],
        [Question("what is it?", ["cat", "cat", "kitten"], "q1")],
        [
            Conversation([Message("user", "<image> what?"), Message("assistant", "a cat")]),
            Conversation(
                [Message("user", "<image> or <image>?"), Message("assistant", "neither")],
                images=["c.png", "a/b.png"],
            ),
        ],
    )
    bare = Record("c.png", b"x")
    text = Record("d", None, text="once upon a time")

    rows = [record_to_row(each) for each in (record, bare, text)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)

    assert [record_from_row(row) for row in table.to_pylist()] == [record, bare, text]


def test_the_image_column_is_laid_out_as_hugging_face_reads_it():
    assert SCHEMA.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
