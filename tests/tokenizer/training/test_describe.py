import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipVisionConfig

import semhitok
from runtime.errors import UserError
from semhitok import main as cli
from tokenizer.model.model_card import part_rows
from tokenizer.saved.model_folder import save_tokenizer
from tokenizer.training.describe import description, model_of_config

CONFIGS = Path(semhitok.__file__).parents[1] / "configs"


def parameters_by_part(model):
    return {name: int(number.replace(",", "")) for name, number in part_rows(model)}


def test_the_parts_add_up_to_the_whole(tiny_model):
    model = tiny_model()
    parts = parameters_by_part(model)
    assert parts.pop("total") == sum(parts.values()) == sum(p.numel() for p in model.parameters())
    assert parts["semantic codebook"] == 8 * 8
    assert parts["pixel sub codebooks"] == 8 * 4 * 8


def test_a_saved_tokenizer_is_described(tiny_model, tmp_path, capsys):
    model = tiny_model()
    save_tokenizer(model, tmp_path)
    assert cli.main(["describe", "--tokenizer", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(description(model) + "\n")
    assert re.search(r"^codes in all +32$", description(model), re.MULTILINE)


def siglip_large(folder, image_size):
    """The config of google/siglip-large-patch16-256 or -384, as the hub has it, without weights."""
    vision = SiglipVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=image_size,
        patch_size=16,
    )
    SiglipConfig(vision_config=vision.to_dict()).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("path", sorted((CONFIGS / "paper").rglob("semantic.yaml")), ids=str)
def test_every_paper_size_model_can_be_described_from_its_config(path, tmp_path):
    image_size = 384 if "384" in path.parent.name else 256
    model = model_of_config(path, [f"teacher={siglip_large(tmp_path, image_size)}"])
    assert all(parameter.is_meta for parameter in model.parameters())
    config = model.config
    assert config.num_image_codes == 196_608
    assert config.num_image_positions == {256: 256, 384: 576}[image_size]
    parts = parameters_by_part(model)
    layer = 4 * 1024 * 1024 + 4 * 1024 + 2 * 4 * 1024 * 1024 + 5 * 1024 + 4 * 1024
    embeddings = 3 * 16 * 16 * 1024 + 1024 + config.num_image_positions * 1024
    assert parts["teacher"] == 24 * layer + embeddings + 2 * 1024
    assert parts["semantic codebook"] == config.num_semantic_codes * 32
    assert parts["pixel sub codebooks"] == 196_608 * 32


def test_a_teacher_that_also_reads_text_is_read_by_its_vision_tower(
    vision_fields, model_fields, tmp_path
):
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(vision_config=vision_fields, text_config=text)).save_pretrained(
        tmp_path / "clip"
    )
    path = tmp_path / "semantic.yaml"
    fields = {
        "data": "nowhere",
        "out": "nowhere",
        "teacher": str(tmp_path / "clip"),
        "training": {"num_steps": 1, "global_batch_size": 1, "learning_rate": 1.0},
        "model": model_fields,
    }
    path.write_text(yaml.safe_dump(fields))
    assert model_of_config(path, []).config.teacher_config.model_type == "clip_vision_model"


def test_bad_input_is_one_sentence(tiny_model, tmp_path):
    path = CONFIGS / "paper" / "256" / "semantic.yaml"
    with pytest.raises(UserError, match="no config of a vision encoder can be read"):
        model_of_config(path, [f"teacher={tmp_path / 'nowhere'}"])
    teacher = f"teacher={siglip_large(tmp_path, 256)}"
    with pytest.raises(UserError, match=r"model.patch_size is 8; set them equal"):
        model_of_config(path, [teacher, "model.patch_size=8"])
    with pytest.raises(UserError, match="pixel_code_dim 1000 is larger than the encoder's width"):
        model_of_config(path, [teacher, "model.pixel_code_dim=1000"])
    with pytest.raises(UserError, match="does not fit"):
        model_of_config(path, [teacher, "model.pixel_attention_heads=7"])
