from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.loading.image_files import write_images
from data_pipelines.loading.settings import ImagesSettings
from data_pipelines.prepare.run import prepare
from data_pipelines.prepare.settings import PrepareSettings
from runtime.errors import UserError


def prepared(tmp_path: Path, source: str) -> Path:
    return Path(prepare(PrepareSettings(sources=[source], out=str(tmp_path / "shapes"))))


def test_images_are_the_bytes_that_they_were(tmp_path):
    (tmp_path / "images").mkdir()
    for number, ending in enumerate(("png", "jpg", "gif", "webp", "bmp")):
        image = Image.effect_noise((16, 16), 40).convert("RGB")
        image.save(tmp_path / "images" / f"{number}.{ending}")
    data = prepared(tmp_path, f"folder:{tmp_path / 'images'}")
    out = write_images(ImagesSettings(data=data, out=tmp_path / "out"))
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert written == {
        f"shapes-{path.stem}{path.suffix}": path.read_bytes()
        for path in (tmp_path / "images").iterdir()
    }
    few = write_images(ImagesSettings(data=data, out=tmp_path / "few", max_images=2))
    assert sorted(path.name for path in few.iterdir()) == ["shapes-0.png", "shapes-1.jpg"]


def test_data_without_images_is_refused(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "one two"}\n')
    data = prepared(tmp_path, f"jsonl:{tmp_path / 'texts.jsonl'}")
    with pytest.raises(UserError, match="holds no image"):
        write_images(ImagesSettings(data=data, out=tmp_path / "out"))
