"""Checkpoints that a run may not resume from."""

import pytest

from runtime.errors import UserError
from tests.tokenizer.phases import killed, rewrite, run
from tokenizer.saved.model_folder import save_tokenizer


def test_a_checkpoint_without_the_discriminator_is_refused(settings, tmp_path, monkeypatch):
    values = settings("pixel", tmp_path)
    killed(monkeypatch, "pixel", values, after_steps=3)
    rewrite(tmp_path / "checkpoint.pt", lambda state: state.pop("discriminator"))
    with pytest.raises(UserError, match="lacks the state of the discriminator"):
        run("pixel", values)


def cut_a_weight(state):
    weights = state["discriminator"]
    name = next(iter(weights))
    weights[name] = weights[name][:1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (cut_a_weight, "another discriminator "),
        (lambda state: state["discriminator"].popitem(), "another discriminator "),
        (
            lambda state: state["discriminator_optimizer"]["param_groups"][0]["params"].pop(),
            "another discriminator optimizer ",
        ),
        (lambda state: state["lecam"].popitem(), "another lecam "),
        (lambda state: state["average"].popitem(), "another average "),
        (lambda state: state.pop("phase"), "no checkpoint of a training phase"),
    ],
)
def test_a_checkpoint_with_a_foreign_state_is_refused(
    settings, tmp_path, monkeypatch, change, named
):
    values = settings("pixel", tmp_path)
    killed(monkeypatch, "pixel", values, after_steps=3)
    rewrite(tmp_path / "checkpoint.pt", change)
    with pytest.raises(UserError, match=named) as refusal:
        run("pixel", values)
    assert "\n" not in str(refusal.value)


def test_a_checkpoint_of_another_codebook_size_is_refused(
    settings, tmp_path, monkeypatch, tiny_model
):
    values = settings("pixel", tmp_path / "out")
    killed(monkeypatch, "pixel", values, after_steps=3)
    save_tokenizer(tiny_model(num_pixel_codes=2), tmp_path / "other")
    other = values | {"tokenizer": str(tmp_path / "other")}

    def same_settings(state):
        state["settings"]["tokenizer"] = other["tokenizer"]

    rewrite(tmp_path / "out" / "checkpoint.pt", same_settings)
    with pytest.raises(UserError, match=r"another K, M or width: .*\(8, 4.* not \(8, 2"):
        run("pixel", other)


def test_a_checkpoint_older_than_a_setting_still_loads(settings, tmp_path, monkeypatch):
    values = settings("semantic", tmp_path / "out", training={"ema_decay": 0.0})
    del values["validation"]
    killed(monkeypatch, "semantic", values, after_steps=3)

    def older(state):
        del state["settings"]["validation"]
        del state["settings"]["training"]["compile"]

    rewrite(tmp_path / "out" / "checkpoint.pt", older)
    run("semantic", values)
    with pytest.raises(UserError, match=r"another training\.learning_rate"):
        killed(monkeypatch, "semantic", values | {"out": str(tmp_path / "b")}, after_steps=3)
        changed = values["training"] | {"learning_rate": 1e-3}
        run("semantic", values | {"out": str(tmp_path / "b"), "training": changed})
