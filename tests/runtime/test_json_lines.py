import pytest

from runtime.errors import UserError
from runtime.json_lines import (
    append_rows,
    cut_torn_line,
    json_values,
    read_rows,
    whole_lines,
    write_rows,
)


def test_rows_come_after_those_that_are_there_and_half_a_line_goes(tmp_path):
    path = tmp_path / "rows.jsonl"
    cut_torn_line(path)  # nothing there yet
    assert whole_lines(path) == []
    append_rows(path, [{"a": "één\u2028"}, {"a": 2}])
    with open(path, "ab") as file:
        file.write(b'{"a": 3')  # as a kill leaves it
    assert len(whole_lines(path)) == 2
    cut_torn_line(path)
    append_rows(path, [{"a": 4}])
    # A line separator inside of a text ends no line.
    assert whole_lines(path) == ['{"a": "één\u2028"}'.encode(), b'{"a": 2}', b'{"a": 4}']


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*resumes after it"):
        append_rows(tmp_path / "nowhere" / "rows.jsonl", [])


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [{"a": "één\u2028"}, {"a": "half \ud800"}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(path) == rows
    assert "één" in path.read_text(encoding="utf-8")
    assert read_rows(tmp_path / "nowhere.jsonl") == []


def test_values_are_numbered_by_their_lines_and_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "values.jsonl"
    path.write_bytes('\ufeff{"a": "\u2028"}\n\n[1]\n{'.encode())
    values = json_values(path)
    assert next(values) == (1, {"a": "\u2028"})
    assert next(values) == (3, [1])
    with pytest.raises(UserError, match=r"line 4 of .*values\.jsonl is not valid JSON"):
        next(values)
