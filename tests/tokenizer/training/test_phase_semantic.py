"""Several teachers of the same codes."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from runtime.errors import UserError
from tokenizer.training.checkpoint import load_checkpoint, save_checkpoint
from tokenizer.training.phase_semantic import AuxiliaryTeacher, SemanticPhase
from tokenizer.training.settings import (
    AuxiliaryTeacherSettings,
    SemanticPhaseSettings,
    TrainingSettings,
)
from tokenizer.training.train import train_phase


@pytest.fixture(scope="module")
def folders(vision_fields, tmp_path_factory):
    """A SigLIP of 8-pixel patches, and a wider DINOv2 of 7-pixel patches."""
    root = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig(**vision_fields)).save_pretrained(root / "siglip")
    dino = {k: v for k, v in vision_fields.items() if k != "intermediate_size"}
    dino |= {"hidden_size": 24, "patch_size": 7, "image_size": 28}
    Dinov2Model(Dinov2Config(**dino)).save_pretrained(root / "dino")
    CLIPVisionModel(CLIPVisionConfig(**vision_fields)).save_pretrained(root / "clip")
    return root


@pytest.fixture
def config(folders, model_fields, prepared, tmp_path):
    return SemanticPhaseSettings(
        data=prepared,
        out=tmp_path / "run",
        teacher=str(folders / "siglip"),
        model=model_fields,
        training=TrainingSettings(num_steps=2, global_batch_size=4, learning_rate=1e-3),
        auxiliary_teachers=[
            AuxiliaryTeacherSettings(teacher=str(folders / "dino"), weight=0.5),
            AuxiliaryTeacherSettings(teacher=str(folders / "clip"), weight=2.0, layer=-2),
        ],
    )


def phase_of(config):
    torch.manual_seed(0)
    return SemanticPhase(config)


def test_the_loss_is_the_weighted_sum_over_teachers(config, all_images):
    phase = phase_of(config)
    images = all_images[:2]
    losses = phase({"images": images})
    model = phase.model
    quantized = model.semantic_codebook(
        model.semantic_vectors(model.teacher_features(images), (4, 4))
    )
    hidden = model.semantic_decoder["trunk"](quantized.vectors, (4, 4))
    expected = config.codebook.commitment_weight * quantized.commitment_loss
    targets = [(1.0, model.semantic_decoder["head"](hidden), model.teacher_features(images))]
    for further, weight in zip(phase.auxiliary_teachers, (0.5, 2.0), strict=True):
        targets.append((weight, further.head(hidden), further.target(images, (4, 4))))
    for weight, features, target in targets:
        cosine = 1 - F.cosine_similarity(features, target, dim=-1).mean()
        expected = expected + weight * (cosine + (features - target).abs().mean())
    assert torch.allclose(losses["loss"], expected, atol=1e-6)
    assert {"cosine_loss", "cosine_loss_2", "cosine_loss_3", "l1_loss_2"} <= losses.keys()


def test_every_head_learns_and_no_teacher_does(config, all_images):
    phase = phase_of(config)
    phase({"images": all_images[:2]})["loss"].backward()
    for further in phase.auxiliary_teachers:
        assert all(p.grad is not None and p.grad.any() for p in further.head.parameters())
        assert all(p.grad is None for p in further.teacher.parameters())
    # All of them pull at the same codes.
    assert phase.model.semantic_encoder["head"][0].weight.grad.any()


def test_another_patch_size_lands_on_the_same_grid(folders, random_images):
    teacher = AuxiliaryTeacher(AuxiliaryTeacherSettings(teacher=str(folders / "dino")), 16)
    assert teacher.target(random_images(2, 16, 40), (2, 5)).shape == (2, 10, 24)
    # An image whose left half alone is bright: features left and right differ, rows do not.
    images = -torch.ones(1, 3, 32, 32)
    images[..., :16] = 1
    seen = teacher.teacher(
        pixel_values=((F.interpolate(images, 28, mode="bicubic", antialias=True) + 1) / 2 - 0.5)
        / 0.5
    ).last_hidden_state[:, 1:]
    assert torch.allclose(teacher.target(images, (4, 4)), seen, atol=1e-5)


def test_the_released_model_carries_the_first_teacher_alone(config):
    folder = train_phase(config)
    assert folder == config.out / "model"
    alone = train_phase(
        config.model_copy(update={"out": config.out / "alone", "auxiliary_teachers": []})
    )
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, alone)]
    assert sizes[0] == sizes[1]


def test_a_checkpoint_holds_the_heads_and_no_teacher(config, all_images, tmp_path):
    phase = phase_of(config)
    parameters = [p for p in phase.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    phase({"images": all_images[:2]})["loss"].backward()
    optimizer.step()
    save_checkpoint(tmp_path / "c.pt", phase, {"optimizer": optimizer}, config, 1)
    state = torch.load(tmp_path / "c.pt", weights_only=True)["phase"]
    assert any(name.startswith("auxiliary_teachers.0.head.") for name in state)
    assert not any(".teacher." in name for name in state)
    again = phase_of(config)
    fresh = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad])
    assert load_checkpoint(tmp_path / "c.pt", again, {"optimizer": fresh}, config) == 1
    given, own = phase.auxiliary_teachers[0].head, again.auxiliary_teachers[0].head
    assert torch.equal(given[0].weight, own[0].weight)


@pytest.mark.parametrize("changed", ["model.teacher", "auxiliary_teachers.0.teacher"])
def test_a_checkpoint_beside_teachers_with_other_weights_is_refused(config, tmp_path, changed):
    phase, path = phase_of(config), tmp_path / "c.pt"
    save_checkpoint(path, phase, {}, config, 1)
    assert load_checkpoint(path, phase_of(config), {}, config) == 1
    other = phase_of(config)
    next(other.get_submodule(changed).parameters()).data.mul_(2)
    with pytest.raises(
        UserError, match=r"c\.pt was written with other weights in the teachers' folders"
    ):
        load_checkpoint(path, other, {}, config)


def test_teachers_stay_in_eval_mode_and_their_dtype(folders):
    config = AuxiliaryTeacherSettings(teacher=str(folders / "clip"), dtype="bfloat16")
    teacher = AuxiliaryTeacher(config, 16).train()
    assert teacher.head.training
    assert not any(module.training for module in teacher.teacher.modules())
    assert {p.dtype for p in teacher.teacher.parameters()} == {torch.bfloat16}
    assert teacher.target(torch.zeros(1, 3, 32, 32), (4, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": "nowhere/at-all"}, "no vision encoder can be loaded from 'nowhere/at-all'"),
        ({"layer": 7}, "no layer 7"),
    ],
    ids=str,
)
def test_a_further_teacher_that_does_not_fit(folders, fields, message):
    config = AuxiliaryTeacherSettings(**{"teacher": str(folders / "clip")} | fields)
    with pytest.raises(UserError, match=message) as refused:
        AuxiliaryTeacher(config, 16)
    assert "\n" not in str(refused.value)
