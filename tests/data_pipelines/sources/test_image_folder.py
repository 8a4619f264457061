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

    assert sorted(found) == ["albums", "circle.png", "inside.png", "outside.png", "real.png"]
    assert isinstance(found["inside.png"], Record)
    for name in ("albums", "circle.png", "outside.png", "real.png"):
        assert isinstance(found[name], Reject), name
    assert found["real.png"].reason == "real.txt is a symbolic link that leads out of the folder"


def test_a_link_to_a_folder_is_followed_once_or_named(tmp_path):
    root = tmp_path / "root"
    for name in ("a/0.png", "b/c/1.png"):
        save_image(root / name)
    save_image(tmp_path / "more" / "deep" / "2.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "again").symlink_to("b")
    assert [item.record_id for item in accepted(read_folder(root))] == ["a/0.png", "b/c/1.png"]

    (root / "more").symlink_to(tmp_path / "more")
    (root / "deep").symlink_to(tmp_path / "more" / "deep")
    *inside, first, second = accepted(read_folder(root))
    assert [item.record_id for item in inside] == ["a/0.png", "b/c/1.png"]
    assert isinstance(first, Reject) and (first.record_id, second.record_id) == ("deep", "more")
    assert "name the folder behind it as a source of its own" in first.reason
    names = [path.relative_to(root).as_posix() for path in list_images(root)]
    assert names == ["a/0.png", "b/c/1.png", "deep/2.png"]  # each once

    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "more").symlink_to(tmp_path / "more")
    with pytest.raises(UserError, match=r"holds no image .*links/more is a link that leads out"):
        read_folder(tmp_path / "links")
    assert len(list_images(tmp_path / "links")) == 1


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    save_image(tmp_path / "a.png")
    save_image(tmp_path / "closed" / "b.png")
    scandir = os.scandir

    def scan(path):  # the tests may run as root, who may read everything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    for read in (read_folder, list_images):
        with pytest.raises(
            UserError, match=r"closed cannot be read \(Permission denied\): make it"
        ):
            read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert accepted(read_folder(tmp_path)) == [Reject("pipe.png", "pipe.png is not a regular file")]


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image"):
        list_images(tmp_path)
