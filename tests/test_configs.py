"""Every file under configs/ loads into the class that reads it, and typing slips are named."""

import json
from pathlib import Path

import pytest
from transformers import SiglipVisionConfig, SiglipVisionModel

import semhitok
from mllm.init.settings import InitSettings
from mllm.phase.settings import PhaseSettings
from runtime.errors import UserError
from runtime.settings import load_settings, to_dict
from runtime.value_types import anywhere
from runtime.yaml_values import dump_values, read_values
from semhitok.ablation_settings import AblationSettings
from semhitok.recipe import read_steps
from semhitok.recipe_settings import Recipe
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.training.new_model import build_model
from tokenizer.training.settings import PHASE_SETTINGS

CONFIGS = Path(semhitok.__file__).parents[1] / "configs"
YAMLS = sorted(CONFIGS.rglob("*.yaml"))
JSONS = sorted(CONFIGS.rglob("*.json"))
CLASSES: dict = {**PHASE_SETTINGS, "init_mllm": InitSettings, "mllm": PhaseSettings}


def class_of(path):
    """The settings class that reads a file, by its name; None where nothing claims it."""
    if path.parent == CONFIGS / "recipes":
        return Recipe
    if path == CONFIGS / "ablation" / "quickstart.yaml":
        return AblationSettings
    return CLASSES.get(path.stem)


def load(path):
    """All settings in a file: of one phase, or of each of its phases."""
    if class_of(path) is not PhaseSettings or "phases" not in read_values(path):
        return [load_as(class_of(path), path)]
    with anywhere():
        return [
            load_settings(PhaseSettings, path, [f"phase={phase}"])
            for phase in read_values(path)["phases"]
        ]


def load_as(settings_class, path):
    with anywhere():  # the folders of a quickstart, which need not have run
        return load_settings(settings_class, path)


def name_of(path):
    return str(path.relative_to(CONFIGS))


def test_there_is_a_config_for_every_phase():
    assert {path.stem for path in YAMLS} >= set(CLASSES)


@pytest.mark.parametrize("path", YAMLS, ids=name_of)
def test_every_yaml_has_a_class_that_it_fits(path):
    settings_class = class_of(path)
    assert settings_class is not None, f"no class reads {path}: add it to CLASSES"
    assert all(isinstance(settings, settings_class) for settings in load(path))


@pytest.mark.parametrize("path", YAMLS, ids=name_of)
def test_every_yaml_opens_with_its_command(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("semhitok " in line for line in header)


@pytest.mark.parametrize("path", YAMLS, ids=name_of)
def test_settings_come_back_from_what_a_run_saves(path, tmp_path):
    for settings in load(path):
        saved = tmp_path / "config.yaml"
        saved.write_text(dump_values(to_dict(settings)))
        assert load_as(class_of(path), saved) == settings


@pytest.mark.parametrize("path", sorted((CONFIGS / "recipes").glob("*.yaml")), ids=name_of)
def test_every_step_of_a_recipe_reads_what_an_earlier_one_writes(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()  # of the recipe for a folder of images
    recipe = load_settings(Recipe, path)
    steps = read_steps(recipe, tmp_path / "out", path.parent)
    assert [step.name for step in steps] == list(recipe.steps)


@pytest.mark.parametrize("path", [p for p in YAMLS if p.stem == "semantic"], ids=name_of)
def test_the_model_section_of_every_semantic_phase_makes_a_config(path):
    fields = load_as(CLASSES["semantic"], path).model
    assert fields.keys() <= SemHiTokConfig.__dataclass_fields__.keys()
    config = SemHiTokConfig(**fields)
    assert config.num_image_codes == config.num_semantic_codes * config.num_pixel_codes


def test_the_quickstarts_model_can_be_built(tmp_path):
    vision = load_as(CLASSES["teacher"], CONFIGS / "quickstart" / "teacher.yaml").vision
    SiglipVisionModel(SiglipVisionConfig(**vision)).save_pretrained(tmp_path)
    fields = load_as(CLASSES["semantic"], CONFIGS / "quickstart" / "semantic.yaml").model
    assert build_model(str(tmp_path), fields).config.num_image_positions == 64


@pytest.mark.parametrize("path", JSONS, ids=name_of)
def test_every_json_is_a_deepspeed_config(path):
    assert path.parent.name == "deepspeed", f"no test knows what {path} is"
    settings = json.loads(path.read_text())
    # DeepSpeed clips nothing unless it is told to.
    assert "gradient_clipping" in settings
    assert settings["zero_optimization"]["stage"] == int(path.stem.removeprefix("zero")[0])


@pytest.mark.parametrize(
    ("name", "slip", "meant"),
    [
        ("teacher", "vocab_siz: 5", "vocab_size"),
        ("teacher", "training: {learning_rat: 1}", "training.learning_rate"),
        ("semantic", "cosine_wieght: 1", "cosine_weight"),
        ("semantic", "codebook: {decai: 0.9}", "codebook.decay"),
        ("pixel", "loss: {l1_wait: 1}", "loss.l1_weight"),
        ("pixel", "tokeniser: here", "tokenizer"),
        ("decoder", "training: {num_step: 1}", "training.num_steps"),
        ("init_mllm", "text_conf: {}", "text_config"),
        ("init_mllm", "sampler: {topk: 1}", "sampler.top_k"),
        ("mllm", "learnig_rate: 1", "learning_rate"),
        ("mllm", "mixture: {proportions: {questions: 1}}", "mixture.proportions.question"),
        ("recipes/quickstart", "titel: x", "title"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(name, slip, meant, tmp_path):
    folder = CONFIGS if "/" in name else CONFIGS / "quickstart"
    path = tmp_path / "slip.yaml"
    path.write_text(f"base: {folder / name}.yaml\n{slip}\n")
    with pytest.raises(UserError, match=rf'did you mean "{meant}"\?$') as refusal:
        load_as(class_of(folder / f"{name}.yaml"), path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("slip", "now"),
    [
        ("row_length: 64", '"row_length" is called "max_seq_length" now'),
        ("rates: {layers: 0}", '"rates" is called "learning_rate_multipliers" now'),
        (
            "learning_rate_multipliers: {text_rows: 0}",
            '"learning_rate_multipliers.text_rows" is called "embed_tokens" now',
        ),
        ("mixture: {shares: {text: 1}}", '"mixture.shares" is called "proportions" now'),
    ],
)
def test_a_former_name_is_refused_with_the_present_one(slip, now, tmp_path):
    path = tmp_path / "mllm.yaml"
    path.write_text(f"base: {CONFIGS / 'quickstart' / 'mllm.yaml'}\n{slip}\n")
    with pytest.raises(UserError, match=now):
        load_settings(PhaseSettings, path)
