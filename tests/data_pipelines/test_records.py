import pyarrow as pa

from data_pipelines.records import SCHEMA, Question, Record, record_from_row, record_to_row


def test_a_record_survives_the_trip_through_the_table():
    record = Record(
        "a/b.png",
        b"\x89PNG\x00",
        ["a cat", "ein Kätzchen"],
        [Question("what is it?", ["cat", "cat", "kitten"], "q1")],
    )
    bare = Record("c.png", b"x", [], [])

    table = pa.Table.from_pylist([record_to_row(record), record_to_row(bare)], schema=SCHEMA)

    assert [record_from_row(row) for row in table.to_pylist()] == [record, bare]


def test_the_image_column_is_laid_out_as_hugging_face_reads_it():
    assert SCHEMA.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
