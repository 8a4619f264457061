"""The manners of the Hugging Face hub: Auto classes, shards, pushing; offline."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitInfo, RepoUrl
from PIL import Image

import tokenizer.model.modeling_semhitok
from runtime.errors import UserError
from tests import processes
from tokenizer.model.image_processing_semhitok import image_processor
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer

SCRIPT = """
import sys
from PIL import Image
from tokenizer import SemHiTokConfig, SemHiTokImageProcessor
from transformers import AutoConfig, AutoImageProcessor, AutoModel

folder, picture = sys.argv[1:]
model = AutoModel.from_pretrained(folder).eval()
assert type(AutoConfig.from_pretrained(folder)) is SemHiTokConfig
processor = AutoImageProcessor.from_pretrained(folder)
assert type(processor) is SemHiTokImageProcessor
pixels = processor(Image.open(picture), return_tensors="pt")["pixel_values"]
print(model.encode(pixels).flat.tolist()[0])
"""


@pytest.mark.slow
def test_auto_classes_know_the_model_once_a_name_of_the_package_is_imported(tiny_model, tmp_path):
    model = tiny_model()
    save_tokenizer(model, tmp_path / "model")
    image = Image.effect_noise((40, 48), 60).convert("RGB")
    image.save(tmp_path / "picture.png")
    run = processes.run("-c", SCRIPT, tmp_path / "model", tmp_path / "picture.png")
    assert run.returncode == 0, run.stderr
    processor = image_processor(model.config)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    assert json.loads(run.stdout) == model.encode(pixels).flat.tolist()[0]


def test_a_large_model_is_written_in_shards(tiny_model, random_images, tmp_path):
    model, images = tiny_model(), random_images()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in shards}
    assert torch.equal(load_tokenizer(tmp_path).eval()(images), model(images))
    shards[0].unlink()
    with pytest.raises(UserError, match="do not fit"):
        load_tokenizer(tmp_path)


class FakeHub:
    """The part of `HfApi` that pushing uses; keeps what would be uploaded."""

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        self.private = private
        return RepoUrl(f"https://huggingface.co/someone/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
        FakeHub.uploaded = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}
        FakeHub.pushed = (repo_id, self.private, self.token, commit_message, revision)
        return CommitInfo(
            commit_url=f"https://huggingface.co/{repo_id}/commit/1",
            commit_message=commit_message,
            commit_description="",
            oid="1",
        )


def test_pushing_uploads_the_whole_folder(tiny_model, random_images, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer.model.modeling_semhitok, "HfApi", FakeHub)
    model, images = tiny_model(), random_images()
    address = model.push_to_hub("codes", private=True, token="secret", revision="next")
    assert "someone/codes" in address
    assert FakeHub.pushed == (
        "someone/codes",
        True,
        "secret",
        "Upload SemHiTok tokenizer",
        "next",
    )
    for name, content in FakeHub.uploaded.items():
        (tmp_path / name).write_bytes(content)
    assert {"README.md", "config.json", "preprocessor_config.json"} < FakeHub.uploaded.keys()
    assert torch.equal(load_tokenizer(tmp_path).eval()(images), model(images))


def test_a_hub_that_cannot_be_reached_is_one_sentence(tiny_model, monkeypatch):
    class Unreachable(FakeHub):
        def create_repo(self, *args, **options):
            raise OSError("no route\nto host")

    monkeypatch.setattr(tokenizer.model.modeling_semhitok, "HfApi", Unreachable)
    with pytest.raises(UserError, match="hf auth login") as refused:
        tiny_model().push_to_hub("codes")
    assert "\n" not in str(refused.value)
