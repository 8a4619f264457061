"""Data sets as the `datasets` library loads them, from local folders in place of the hub."""

import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.records import Reject
from data_pipelines.sources.source import open_source
from runtime.errors import UserError
from tests.data_pipelines.small_sources import picture, read


@pytest.mark.parametrize("streaming", [0, 1])
def test_a_data_set_of_the_hub(tmp_path, streaming):
    import datasets

    folder = tmp_path / "set"
    folder.mkdir()
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [{"bytes": picture(i), "path": None} for i in range(3)], "text": list("abc")}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    source = f"hub:{folder},split=train,streaming={streaming}"
    records = read(source)
    assert [r.image for r in records] == [picture(i) for i in range(3)]
    assert [r.captions for r in records] == [["a"], ["b"], ["c"]]
    with pytest.raises(UserError, match="no column 'foto' for image; its columns are: image, text"):
        open_source(f"{source},image=foto")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_source(f"hub:{folder},split=dev")


@pytest.mark.parametrize("streaming", [0, 1])
def test_a_data_set_of_the_hub_with_a_list_of_one_image(tmp_path, streaming):
    import datasets

    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "own.data").write_bytes(picture(9))
    path = f"{folder}/own.data"
    lists = [[{"bytes": picture(0), "path": None}], [], [{"bytes": None, "path": path}]]
    lists.append([{"bytes": picture(n), "path": None} for n in range(2)])
    features = datasets.Features(
        {"images": datasets.List(datasets.Image()), "text": datasets.Value("string")}
    )
    table = pa.table({"images": lists, "text": list("abcd")}, schema=features.arrow_schema)
    pq.write_table(table, folder / "train.parquet")
    first, second, third, several = read(f"hub:{folder},streaming={streaming}")
    assert [first.image, second.image, third.image] == [picture(0), None, picture(9)]
    assert isinstance(several, Reject) and "it names 2 images" in several.reason


@pytest.mark.parametrize("streaming", [0, 1])
def test_a_data_set_of_the_hub_that_is_a_folder_of_images(tmp_path, streaming):
    folder = tmp_path / "set"
    for number, name in enumerate(("cat/0.png", "cat/1.png", "dog/2.png")):
        path = folder / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    records = read(f"hub:{folder},streaming={streaming},caption=label")
    assert [r.image for r in records] == [picture(i) for i in range(3)]
    assert [r.captions for r in records] == [["cat"], ["cat"], ["dog"]]


@pytest.mark.parametrize("streaming", [0, 1])
def test_a_data_set_of_the_hub_that_is_a_zip_of_images(tmp_path, streaming):
    folder = tmp_path / "set"
    folder.mkdir()
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", picture(number))
        names = (f'{{"file_name": "{n}.png", "text": "number {n}"}}' for n in (2, 0, 1))
        archive.writestr("metadata.jsonl", "\n".join(names))
    records = read(f"hub:{folder},streaming={streaming}")
    assert [r.image for r in records] == [picture(i) for i in (2, 0, 1)]
    assert [r.captions for r in records] == [["number 2"], ["number 0"], ["number 1"]]


@pytest.mark.parametrize("streaming", [0, 1])
def test_a_data_set_of_the_hub_reads_no_file_but_its_own(tmp_path, streaming):
    import datasets

    folder, images = tmp_path / "set", tmp_path / "images"
    folder.mkdir()
    images.mkdir()
    (images / "0.png").write_bytes(picture(0))
    (folder / "link.data").symlink_to(images / "0.png")
    (folder / "own.data").write_bytes(picture(9))
    with zipfile.ZipFile(images / "x.zip", "w") as archive:
        archive.writestr("0.png", picture(0))
    paths = [
        "/etc/passwd", str(images / "0.png"), str(folder / "link.data"),
        f"{folder}/../images/0.png", f"file://{images}/0.png", f"zip://0.png::{images}/x.zip", "https://example.org/0.png",
        f"zip://a::zip://b::{folder}/x.zip", "hf://datasets/another/set@main/0.png", str(folder),
        f"{folder}/nowhere.png", "own.data",
    ]  # fmt: skip
    rows = {"image": [{"bytes": None, "path": path} for path in [*paths, f"{folder}/own.data"]]}
    features = datasets.Features({"image": datasets.Image()})
    # Not by `to_parquet`, which would go and look for them.
    pq.write_table(pa.table(rows, schema=features.arrow_schema), folder / "train.parquet")
    *others, own = read(f"hub:{folder},streaming={streaming}")
    assert own.image == picture(9)
    assert all(isinstance(other, Reject) for other in others)
    assert "its image is a file's name" in others[-1].reason
