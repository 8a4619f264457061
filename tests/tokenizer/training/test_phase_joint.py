"""What the ablations change: structure of the codes, training in one stage, another pixel half."""

import pytest
import torch
import torch.nn.functional as F

from mllm.model.heads import HierarchicalHead
from runtime.errors import UserError
from runtime.settings import build_settings
from tokenizer.codebooks.settings import CodebookSettings
from tokenizer.codebooks.updater import CodebookUpdater
from tokenizer.model.codebook import GroupedCodebook, JoinedCodebook
from tokenizer.model.fingerprint import code_fingerprint
from tokenizer.model.modeling_semhitok import ImageCodes
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.training import train
from tokenizer.training.new_model import renew_pixel_half
from tokenizer.training.phase_joint import JointPhase
from tokenizer.training.settings import PHASE_SETTINGS

STRUCTURES = {
    "hierarchical": {},
    "independent": {"code_structure": "independent"},
    "flat": {"code_structure": "flat", "num_semantic_codes": 32, "num_pixel_codes": 1},
    "semantic only": {"num_pixel_codes": 1},
    "pixel only": {"num_semantic_codes": 1, "num_pixel_codes": 32},
}


def training(num_steps=6, **fields):
    return {"num_steps": num_steps, "global_batch_size": 8, "learning_rate": 5e-3} | fields


@pytest.fixture(scope="module")
def teacher(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    tiny_model().teacher.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def joint_values(prepared, teacher, model_fields, tmp_path):
    def build(**fields):
        return {
            "data": str(prepared),
            "out": str(tmp_path / "joint"),
            "teacher": teacher,
            "model": model_fields | fields,
            "training": training(log_every=1, checkpoint_every=2, warmup_steps=1),
        }

    return build


def run(phase, values):
    return train.train_phase(build_settings(PHASE_SETTINGS[phase], values, "the test"))


@pytest.mark.parametrize("fields", STRUCTURES.values(), ids=STRUCTURES)
def test_every_structure_decodes_from_its_flat_codes_alone(tiny_model, random_images, fields):
    model, images = tiny_model(**fields), random_images()
    codes = model.encode(images)
    assert codes.flat.min() >= 0 and codes.flat.max() < model.config.num_image_codes
    again = ImageCodes.from_flat(codes.flat, model.config.num_pixel_codes)
    assert torch.equal(model.decode(again), model(images))


def test_a_flat_code_is_the_nearest_to_both_vectors_together(tiny_model, random_images):
    model, images = tiny_model(**STRUCTURES["flat"]), random_images()
    semantic = model.semantic_vectors(model.teacher_features(images), (4, 4))
    halves = [
        (F.normalize(semantic, dim=-1), F.normalize(model.semantic_codebook.codes[0], dim=-1)),
        (
            F.normalize(model.pixel_vectors(images), dim=-1),
            F.normalize(model.pixel_sub_codebooks.codes[:, 0], dim=-1),
        ),
    ]
    distances = sum(
        (vectors.unsqueeze(2) - codes).double().square().sum(-1) for vectors, codes in halves
    )
    assert torch.equal(model.encode(images).semantic, distances.argmin(-1))
    alone = (halves[0][0].unsqueeze(2) - halves[0][1]).square().sum(-1).argmin(-1)
    assert not torch.equal(alone, distances.argmin(-1))  # else the pixels would not count


def test_an_independent_pixel_code_does_not_depend_on_the_semantic_code(tiny_model, random_images):
    model, images = tiny_model(code_structure="independent"), random_images()
    assert model.pixel_sub_codebooks.codes.shape == (1, 4, 8)
    first, second = torch.zeros(3, 16, dtype=torch.int64), torch.full((3, 16), 7)
    codes = [model.pixel_codes(images, semantic) for semantic in (first, second)]
    assert torch.equal(*codes)
    hierarchical = tiny_model()
    codes = [hierarchical.pixel_codes(images, semantic) for semantic in (first, second)]
    assert not torch.equal(*codes)


@pytest.mark.parametrize("fields", STRUCTURES.values(), ids=STRUCTURES)
def test_the_hierarchical_head_scores_every_structure(tiny_model, fields):
    model = tiny_model(**fields)
    config = model.config
    num_semantic, num_pixel = config.num_semantic_codes, config.num_pixel_codes
    torch.manual_seed(0)
    head = HierarchicalHead(
        12, num_semantic, num_pixel, config.semantic_code_dim, config.pixel_code_dim
    )
    hidden = torch.randn(1, 12).expand(config.num_image_codes, 12)
    _, semantic, pixel = head.losses(hidden, torch.arange(config.num_image_codes), model)
    assert (-semantic - pixel).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_structures_of_equal_weights_have_different_fingerprints(tiny_model):
    flat, levels = (
        tiny_model(num_semantic_codes=32, num_pixel_codes=1, code_structure=structure)
        for structure in ("flat", "hierarchical")
    )
    levels.load_state_dict(flat.state_dict())
    assert code_fingerprint(flat) != code_fingerprint(levels)


def test_a_joined_codebook_keeps_both_halves_on_their_metric():
    torch.manual_seed(0)
    semantic = GroupedCodebook(1, 6, 4, "cosine")
    pixel = GroupedCodebook(6, 1, 3, "euclidean")
    joined = JoinedCodebook(semantic, pixel)
    vectors = torch.randn(200, 7) * 3
    ema = CodebookUpdater(joined, CodebookSettings())
    ema.start(vectors)
    ema.update(vectors, joined(vectors).codes)
    joined.push()
    assert torch.allclose(semantic.codes.norm(dim=-1), torch.ones(1, 6))
    assert pixel.codes.norm(dim=-1).max() > 1.5
    assert torch.equal(torch.cat([semantic.codes[0], pixel.codes[:, 0]], -1), joined.codes[0])


def test_a_flat_codebook_with_sub_codebooks_is_refused(tiny_model):
    with pytest.raises(ValueError, match="set num_pixel_codes to 1, not 4"):
        tiny_model(code_structure="flat")


@pytest.mark.parametrize("fields", STRUCTURES.values(), ids=STRUCTURES)
def test_joint_training_moves_all_but_the_teacher_and_lowers_the_loss(
    joint_values, fields, tmp_path
):
    values = joint_values(**fields)
    config = build_settings(PHASE_SETTINGS["joint"], values, "the test")
    torch.manual_seed(0)
    before = JointPhase(config).model.state_dict()
    model = load_tokenizer(run("joint", values))
    moved = {k.split(".")[0] for k, v in model.state_dict().items() if not v.equal(before[k])}
    parts = {"semantic_encoder", "semantic_codebook", "semantic_decoder"}
    parts |= {"pixel_encoder", "pixel_sub_codebooks", "decoder"}
    assert moved == parts


@pytest.mark.parametrize("structure", ["hierarchical", "flat"])
def test_pixels_reach_the_semantic_encoder_in_joint_training(
    joint_values, structure, random_images
):
    values = joint_values(**STRUCTURES[structure]) | {"cosine_weight": 0.0, "l1_weight": 0.0}
    values["codebook"] = {"commitment_weight": 0.0}
    config = build_settings(PHASE_SETTINGS["joint"], values, "the test")
    torch.manual_seed(0)
    phase = JointPhase(config)
    phase({"images": random_images()})["loss"].backward()
    gradient = phase.model.semantic_encoder["head"][0].weight.grad
    assert gradient is not None and gradient.abs().max() > 0
    assert all(p.grad is None for p in phase.model.teacher.parameters())


@pytest.mark.parametrize("structure", ["hierarchical", "flat"])
def test_a_killed_joint_phase_resumes_to_the_identical_weights(
    joint_values, structure, tmp_path, monkeypatch
):
    values = joint_values(**STRUCTURES[structure])
    whole = load_tokenizer(run("joint", values | {"out": str(tmp_path / "whole")}))
    do_step = train.TrainStep.__call__

    def dies(self, step, batch):
        values = do_step(self, step, batch)
        if step == 5:
            raise KeyboardInterrupt
        return values

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.TrainStep, "__call__", dies)
        run("joint", values)
    resumed = load_tokenizer(run("joint", values)).state_dict()
    assert all(torch.equal(v, resumed[k]) for k, v in whole.state_dict().items())


@pytest.mark.parametrize("fields", [{}, {"num_pixel_codes": 6}, {"code_structure": "independent"}])
def test_the_pixel_phase_can_take_another_pixel_half(
    tiny_model, prepared, all_images, tmp_path, fields
):
    semantic = tiny_model(seed=3)
    save_tokenizer(semantic, tmp_path / "semantic")
    values = {"data": str(prepared), "out": str(tmp_path / "pixel"), "model": fields}
    values |= {"tokenizer": str(tmp_path / "semantic"), "training": training()}
    model = load_tokenizer(run("pixel", values)).eval()
    assert torch.equal(model.semantic_codes(all_images), semantic.semantic_codes(all_images))
    assert model.config.num_pixel_codes == fields.get("num_pixel_codes", 4)
    num_groups = 1 if fields.get("code_structure") else 8
    assert model.pixel_sub_codebooks.codes.shape[0] == num_groups


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_semantic_codes": 9}, "changes the semantic half"),
        ({"pixel_stem": "patch", "num_semantic_codes": 9}, r"already \(num_semantic_codes\)"),
        ({"image_size": 64}, "changes the semantic half"),
        ({"semantic_metric": "euclidean"}, r"\(semantic_metric\)"),
        ({"num_pixl_codes": 3}, "did you mean num_pixel_codes"),
        ({"num_pixel_codes": 0}, "at least 1"),
    ],
)
def test_a_pixel_half_that_does_not_fit_is_one_sentence(tiny_model, fields, message):
    with pytest.raises(UserError, match=message):
        renew_pixel_half(tiny_model(), fields)


@pytest.mark.parametrize("phase", ["semantic", "pixel"])
def test_a_flat_codebook_is_refused_by_the_phases_that_know_one_half(
    joint_values, tiny_model, phase, tmp_path
):
    values = joint_values(**STRUCTURES["flat"])
    if phase == "pixel":
        save_tokenizer(tiny_model(**STRUCTURES["flat"]), tmp_path / "flat")
        values = {k: values[k] for k in ("data", "out", "training")}
        values |= {"tokenizer": str(tmp_path / "flat")}
    with pytest.raises(UserError, match=f"the phase {phase} trains one half.*train joint"):
        run(phase, values)
