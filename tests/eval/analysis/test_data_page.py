import json
import re

import pytest
from PIL import Image

from eval.analysis.data_page import inspect_data
from eval.analysis.settings import InspectSettings
from runtime.errors import UserError
from semhitok.main import main
from tests.prepared import prepare_sources


def page_of(folder):
    return inspect_data(InspectSettings(data=folder))


@pytest.fixture
def prepared(tmp_path):
    """Eight pictures, of which one is cut short, and two texts; names and words are hostile."""
    root = tmp_path / "images"
    root.mkdir()
    for number in range(8):
        path = root / f"{number}.png"
        Image.new("RGB", (20 + number, 10), (30 * number, 90, 90)).save(path)
        path.with_suffix(".txt").write_text(f"<script>alert({number})</script> a & b\n")
    (root / "3.png").write_bytes((root / "3.png").read_bytes()[:50])
    texts = tmp_path / "t.jsonl"
    texts.write_text('{"text": "once <b>upon</b> a time"}\n{"text": ""}\n')
    return prepare_sources([str(root), f"jsonl:{texts}"], tmp_path / "out")


def test_the_page_shows_what_is_there_and_runs_nothing_of_it(prepared):
    page = page_of(prepared).read_text()
    assert page.count("data:image/png;base64,") == 7
    assert "<script" not in page and "&lt;script&gt;alert(0)&lt;/script&gt; a &amp; b" in page
    assert "once &lt;b&gt;upon&lt;/b&gt; a time" in page
    assert "the image is damaged and cannot be decoded" in page and "an empty text" in page
    assert "27 × 10" in page and "words in a caption" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert page_of(prepared).read_text() == page


def test_the_command_writes_where_it_is_told(prepared, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["data", "inspect", str(prepared), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_a_split_is_looked_at_side_by_side(prepared, tmp_path):
    split = prepare_sources(tmp_path / "images", tmp_path / "split", test_fraction=0.5)
    with pytest.raises(UserError, match=r"holds a split; name .*split/train or .*split/test"):
        page_of(split)
    page = page_of(split / "train").read_text()
    assert "damaged" in page  # rejects stand beside the two sides


def test_a_folder_without_prepared_data_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no prepared data"):
        page_of(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(UserError, match="schema version 1, this program reads 3"):
        page_of(tmp_path)


def test_a_damaged_shard_is_named(prepared):
    shard = prepared / "data-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"data-00000\.arrow is damaged .*prepare again"):
        page_of(prepared)
