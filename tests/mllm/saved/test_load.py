import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoProcessor

from mllm import UnifiedForConditionalGeneration, UnifiedProcessor
from mllm.drawing.drawer import draw
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.sampler import Sampler
from mllm.saved.load import load_for_inference, load_model, load_processor
from runtime.errors import UserError
from tests.mllm.tiny import change_config, make_model, picture

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}


@pytest.fixture
def folder(world, processor, tmp_path):
    make_model(world).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("image_head", ["hierarchical", "flat"])
def test_a_saved_model_says_the_same(world, processor, tmp_path, image_head):
    model = make_model(world, image_head)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path).eval()
    assert type(again.image_head) is type(model.image_head)
    inputs = processor.questions([picture("red", "bar")], ["what color is it?"])
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
        assert torch.equal(
            model.image_head.semantic_scores(hidden), again.image_head.semantic_scores(hidden)
        )
    states = [m.state_dict() for m in (model, again)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not any(p.requires_grad for p in again.image_tokenizer.parameters())


def test_a_model_folder_is_whole_and_holds_no_pickle(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "processor_config.json",
            "tokenizer.json", "chat_template.jinja"} <= names  # fmt: skip
    assert not [path for path in folder.rglob("*") if path.suffix in PICKLES]


def test_a_saved_processor_says_the_same(processor, folder):
    again = load_processor(folder)
    assert again.num_image_positions == 4
    image = picture("red", "bar").resize((40, 24))
    first = processor.questions([image], ["what color is it?"])
    second = again.questions([image], ["what color is it?"])
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawings = [p.drawings(["a red bar", "a box"]) for p in (processor, again)]
    assert all(torch.equal(drawings[0][name], drawings[1][name]) for name in drawings[0])


def test_auto_classes_know_the_folder(folder):
    assert isinstance(AutoConfig.from_pretrained(folder), UnifiedConfig)
    assert isinstance(AutoProcessor.from_pretrained(folder), UnifiedProcessor)


def test_the_processor_gives_the_images_that_the_codes_were_made_of(world, processor):
    from data_pipelines.images import open_image
    from data_pipelines.loading.dataset import PreparedDataset
    from tokenizer.extraction.code_shards import CodeStore

    model = load_model(world.start).eval()
    records, codes = PreparedDataset(world.data), CodeStore(world.codes)
    for number in range(len(records)):
        record = records[number]
        inputs = processor.questions([open_image(record.image)], ["what color is it?"])
        token_ids = model.get_image_tokens(inputs["pixel_values"])[0] - model.vocabulary.offset
        assert token_ids.tolist() == codes.flat(record.record_id).tolist()


def test_the_python_use_of_the_readme(folder):
    model = UnifiedForConditionalGeneration.from_pretrained(folder)
    processor = UnifiedProcessor.from_pretrained(folder)

    inputs = processor.questions([picture("red", "bar")], ["what color is it?"])
    token_ids = model.generate(**inputs, max_new_tokens=8)
    answers = processor.answers(token_ids, inputs["input_ids"].shape[1])
    assert len(answers) == 1 and isinstance(answers[0], str)

    inputs = processor.drawings(["a red bar", "a blue box"])
    token_ids = model.generate(**inputs, generation_mode="image", seeds=[0, 1])
    pictures = processor.pictures(model.decode_image_tokens(token_ids))
    assert [p.size for p in pictures] == [(16, 16)] * 2


def test_drawings_of_a_list_do_not_depend_on_the_batch_size(folder):
    prompts = ["a red bar", "a blue box", "a green bar"]
    loaded = load_for_inference(folder)
    one, all_at_once = (
        [image.tobytes() for image in draw(*loaded, prompts, [0, 1, 2], Sampler(), size)]
        for size in (1, 3)
    )
    assert one == all_at_once


def test_a_prompt_beyond_the_context_is_one_sentence(folder):
    with pytest.raises(UserError, match="at most 128: shorten the prompt"):
        list(draw(*load_for_inference(folder), ["red " * 10_000], [0], Sampler()))


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"holds no model \(no config\.json\)"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="holds no model"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no model"):
        load_processor(tmp_path)


def test_a_tokenizer_folder_is_one_sentence(world):
    with pytest.raises(UserError, match="holds a 'semhitok' model, not a unified one"):
        load_model(world.tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        {"image_tokenizer_config__num_semantic_codes": 7},
        {"image_tokenizer_config__num_pixel_codes": 4},
        {"text_config__vocab_size": 999},
        {"text_config__intermediate_size": 128},
        {"text_config__num_hidden_layers": 3, "text_config__layer_types": ["full_attention"] * 3},
        {"image_head": "flat"},
    ],
)
def test_weights_of_another_shape_are_one_sentence(folder, tmp_path, change):
    changed = change_config(folder, tmp_path / "changed", **change)
    with pytest.raises(UserError, match=r"do not fit its config\.json") as error:
        load_model(changed)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_config__model_type": "no_such_model"}, r"config\.json"),
        ({"image_head": "round"}, r"config\.json"),
        ({"text_config__hidden_size": "wide"}, r"config\.json"),
        ({"text_config__num_hidden_layers": 3}, r"config\.json"),
        ({"model_type": "no_such_model"}, "changed holds a 'no_such_model' model, not a unified"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_sentence(folder, tmp_path, change, words):
    changed = change_config(folder, tmp_path / "changed", **change)
    with pytest.raises(UserError, match=words):
        load_model(changed)


def test_damaged_files_are_one_sentence(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        damaged = shutil.copytree(folder, tmp_path / f"damaged-{name}")
        (damaged / name).write_bytes((damaged / name).read_bytes()[:40])
        with pytest.raises(UserError, match=r"cannot be read|broken file"):
            load_model(damaged)
    without = shutil.copytree(folder, tmp_path / "without")
    (without / "model.safetensors").unlink()
    with pytest.raises(UserError, match="broken file"):
        load_model(without)


def test_loading_never_runs_code_from_the_folder(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_in_bfloat16_the_image_tokenizer_stays_exact_and_the_model_answers_and_draws(folder):
    exact = load_model(folder)
    model = UnifiedForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    for name, value in model.image_tokenizer.state_dict().items():
        assert torch.equal(value, exact.image_tokenizer.state_dict()[name]), name
    processor = UnifiedProcessor.from_pretrained(folder)
    inputs = processor.questions([picture("red", "bar")], ["what color is it?"])
    token_ids = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert len(processor.answers(token_ids, inputs["input_ids"].shape[1])) == 1
    drawn = model.generate(**processor.drawings(["a box"]), generation_mode="image", seeds=[0])
    assert model.decode_image_tokens(drawn).shape == (1, 3, 16, 16)
