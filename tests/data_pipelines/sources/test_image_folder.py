import os
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.records import Record, Reject
from data_pipelines.sources.image_folder import MAX_CAPTION_FILE_SIZE, list_images, read_folder
from runtime.errors import UserError
from tests.data_pipelines.small_sources import accepted


def save_image(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "teal").save(path)
    return path.read_bytes()


def test_records_come_in_the_order_of_their_ids_with_bytes_as_they_were(tmp_path):
    saved = {name: save_image(tmp_path / name) for name in ("b.png", "a/z.JPG", "a.webp", "c.jpeg")}
    (tmp_path / "notes.md").write_text("no image")
    records = accepted(read_folder(tmp_path))
    assert [record.record_id for record in records] == ["a.webp", "a/z.JPG", "b.png", "c.jpeg"]
    assert {r.record_id: r.image for r in records if isinstance(r, Record)} == saved


def test_a_caption_is_a_line(tmp_path):
    save_image(tmp_path / "cat.png")
    save_image(tmp_path / "dog.png")
    (tmp_path / "cat.txt").write_bytes("\ufeffa cat\r\n\r\n  ein Kätzchen \n".encode())
    cat, dog = accepted(read_folder(tmp_path))
    assert cat.captions == ["a cat", "ein Kätzchen"]
    assert dog.captions == []
    assert cat.questions == dog.questions == []


def test_text_that_is_no_utf8_rejects_its_image(tmp_path):
    save_image(tmp_path / "cat.png")
    (tmp_path / "cat.txt").write_bytes("café".encode("latin-1"))
    assert accepted(read_folder(tmp_path)) == [
        Reject("cat.png", "the caption file is not UTF-8 (byte 3)")
    ]


def test_a_huge_caption_file_is_not_read(tmp_path):
    save_image(tmp_path / "cat.png")
    (tmp_path / "cat.txt").write_bytes(b"x" * (MAX_CAPTION_FILE_SIZE + 1))
    (reject,) = accepted(read_folder(tmp_path))
    assert "limit is 1,048,576" in reject.reason


def test_links_are_followed_inside_the_folder_and_never_out_of_it(tmp_path):
    root = tmp_path / "root"
    save_image(root / "real.png")
    save_image(tmp_path / "private.png")
    save_image(tmp_path / "albums" / "one.png")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "inside.png").symlink_to("real.png")
    (root / "outside.png").symlink_to(tmp_path / "private.png")
    (root / "circle.png").symlink_to("circle.png")
    (root / "real.txt").symlink_to("../secret.txt")
    (root / "albums").symlink_to("../albums")

    found = {item.record_id: item for item in accepted(read_folder(root))}

    assert sorted(found) == ["circle.png", "inside.png", "outside.png", "real.png"]
    assert isinstance(found["inside.png"], Record)
    for name in ("circle.png", "outside.png", "real.png"):
        assert isinstance(found[name], Reject), name
    assert found["real.png"].reason == "real.txt is a symbolic link that leads out of the folder"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert accepted(read_folder(tmp_path)) == [Reject("pipe.png", "pipe.png is not a regular file")]


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image"):
        list_images(tmp_path)
