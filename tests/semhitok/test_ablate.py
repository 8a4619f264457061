"""An ablation in miniature: what is shared, what is skipped, and what the table says."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw
from transformers import SiglipVisionConfig, SiglipVisionModel

from runtime.errors import UserError
from runtime.settings import build_settings
from semhitok import ablate
from semhitok import main as cli
from semhitok.ablation_plan import MeasureStep, plan
from semhitok.ablation_settings import AblationSettings

COLOURS = {"red": (220, 30, 30), "blue": (40, 60, 230)}
SMALL = {"hidden_size": 16, "encoder_layers": 1, "attention_heads": 2}
MODEL = {
    "image_size": 32,
    "patch_size": 8,
    "num_semantic_codes": 8,
    "num_pixel_codes": 4,
    "semantic_code_dim": 8,
    "pixel_code_dim": 8,
    "pixel_stem": "conv",
    "decoder_head": "conv",
}
for part in ("semantic", "pixel", "decoder", "enhance_decoder"):
    MODEL |= {f"{part}_hidden_size": 16, f"{part}_attention_heads": 2}
MODEL |= {"semantic_encoder_layers": 1, "semantic_decoder_layers": 1, "pixel_encoder_layers": 0}
MODEL |= {"decoder_layers": 0, "enhance_decoder_layers": 1}
TRAINING = {"num_steps": 3, "global_batch_size": 8, "learning_rate": 5e-3}
VARIANTS = {
    "staged": {"about": "ours", "phases": {"semantic": {}, "pixel": {}}},
    "enhance": {"about": "deeper", "phases": {"semantic": {}, "pixel": {}, "decoder": {}}},
    "independent": {
        "about": "beside",
        "phases": {"semantic": {}, "pixel": {"model": {"code_structure": "independent"}}},
    },
    "pixel-only": {
        "about": "no teacher",
        "phases": {"joint": {"model": {"num_semantic_codes": 1}, "cosine_weight": 0}},
    },
}


def values(home: Path) -> dict:
    return {
        "out": str(home / "out"),
        "train_source": str(home / "train"),
        "test_source": str(home / "test"),
        "teacher": str(home / "teacher"),
        "seeds": [0, 1],
        "phases": {phase: f"{phase}.yaml" for phase in ("semantic", "pixel", "decoder", "joint")},
        "probes": {"colour": ["red", "blue"]},
        "variants": VARIANTS,
    }


def settings(home: Path, **changed) -> AblationSettings:
    built = build_settings(AblationSettings, values(home) | changed, "the test")
    built.phases = {name: home / file for name, file in built.phases.items()}
    return built


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a teacher, images, the phases' YAML files and a finished ablation."""
    home = tmp_path_factory.mktemp("ablation")
    chance = random.Random(0)
    for split, num_images in (("train", 20), ("test", 12)):
        (home / split).mkdir()
        for number in range(num_images):
            colour = list(COLOURS)[number % 2]
            image = Image.effect_noise((32, 32), 40).convert("RGB")
            x, y = chance.randrange(16), chance.randrange(16)
            ImageDraw.Draw(image).rectangle((x, y, x + 14, y + 14), fill=COLOURS[colour])
            image.save(home / split / f"{number:02d}.png")
            (home / split / f"{number:02d}.txt").write_text(f"a {colour} square\n")
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    SiglipVisionModel(vision).save_pretrained(home / "teacher")
    common = {"data": "given", "out": "given", "training": TRAINING}
    for phase, own in {
        "semantic": {"teacher": "given", "model": MODEL},
        "joint": {"teacher": "given", "model": MODEL},
        "pixel": {"tokenizer": "given"},
        "decoder": {"tokenizer": "given"},
    }.items():
        (home / f"{phase}.yaml").write_text(yaml.safe_dump(common | own))
    (home / "ablation.yaml").write_text(yaml.safe_dump(values(home), sort_keys=False))
    assert cli.main(["ablate", "--config", str(home / "ablation.yaml")]) == 0
    return home


def summary(home: Path) -> dict:
    return json.loads((home / "out" / "summary.json").read_text())


def test_variants_that_begin_alike_share_their_first_steps(home):
    phases = [path.name.split("-")[0] for path in (home / "out" / "seed-0").iterdir()]
    assert sorted(phases) == ["decoder", "joint"] + ["measured"] * 4 + ["pixel"] * 2 + ["semantic"]


def test_the_table_holds_mean_and_deviation_of_the_raw_results(home):
    rows = {row["variant"]: row for row in summary(home)["rows"]}
    assert list(rows) == list(VARIANTS)
    for name, row in rows.items():
        raw = [
            json.loads((Path(folder) / "summary.json").read_text())
            for folder in summary(home)["results"][name]
        ]
        assert len(raw) == 2
        psnr = [result["psnr"] for result in raw]
        assert psnr[0] != psnr[1]  # else the seeds would change nothing
        assert row["measures"]["psnr"]["mean"] == pytest.approx(np.mean(psnr))
        assert row["measures"]["psnr"]["deviation"] == pytest.approx(
            abs(psnr[0] - psnr[1]) / 2**0.5
        )
    table = (home / "out" / "table.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(VARIANTS)
    mean = rows["staged"]["measures"]["psnr"]["mean"]
    assert lines[2].startswith(f"| staged | 8 × 4 | {mean:.2f} ± ")
    assert all(variant["about"] in table for variant in VARIANTS.values())


def test_usage_counts_all_image_codes_and_each_row_says_how_many(home):
    rows = {row["variant"]: row for row in summary(home)["rows"]}
    sizes = {n: (r["num_semantic_codes"], r["num_pixel_codes"]) for n, r in rows.items()}
    assert sizes == {"staged": (8, 4), "enhance": (8, 4), "independent": (8, 4)} | {
        "pixel-only": (1, 4)
    }
    assert rows["staged"]["measures"]["usage"] == rows["enhance"]["measures"]["usage"]
    assert all(0 < row["measures"]["usage"]["mean"] <= 1 for row in rows.values())


def test_one_semantic_code_tells_a_probe_nothing(home):
    rows = {row["variant"]: row for row in summary(home)["rows"]}
    assert rows["pixel-only"]["measures"]["colour.semantic"]["values"] == [0.5, 0.5]
    assert summary(home)["majorities"] == {"colour": 0.5}


def test_every_result_has_its_config_versions_and_predictions(home):
    out = home / "out"
    assert (out / "config.yaml").is_file() and (out / "environment.json").is_file()
    for folder in (out / "seed-1").iterdir():
        if not folder.name.startswith("measured"):
            assert yaml.safe_load((folder / "config.yaml").read_text())["training"]["seed"] == 1
            assert (folder / "environment.json").is_file()
            continue
        result = json.loads((folder / "summary.json").read_text())
        lines = (folder / "probe_predictions.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        for kind in ("semantic", "joint"):
            hits = [r["label"] == r["predicted"] for r in rows if r["features"] == kind]
            assert len(hits) == 12
            assert np.mean(hits) == pytest.approx(result["probes"][f"colour.{kind}"]["accuracy"])


def test_a_finished_ablation_trains_nothing_again(home, monkeypatch):
    monkeypatch.setattr(ablate, "run_step", lambda step: pytest.fail(f"ran {step}"))
    before = (home / "out" / "table.md").read_text()
    assert ablate.ablate(settings(home)).read_text() == before


def test_another_setting_is_another_step_and_the_rest_is_kept(home):
    changed = settings(home)
    changed.variants["staged"].phases = {"semantic": {}, "pixel": {"training": {"num_steps": 2}}}
    waiting = [step for step in plan(changed) if not step.mark.is_file()]
    assert [type(s).__name__ for s in waiting] == ["TrainStep", "MeasureStep"] * 2
    assert {step.phase for step in waiting if not isinstance(step, MeasureStep)} == {"pixel"}


def test_only_takes_the_named_variants_with_what_they_start_from(home):
    steps = plan(settings(home, seeds=[5], only=["enhance"]))
    names = ["measure" if isinstance(step, MeasureStep) else step.phase for step in steps]
    assert names == ["semantic", "pixel", "decoder", "measure"]
    assert [step.after for step in steps[1:]] == [step.folder for step in steps[:-1]]


def test_an_untrained_teacher_is_the_first_step(home):
    phases = values(home)["phases"] | {"teacher": str(Path("configs/quickstart/teacher.yaml"))}
    changed = {"teacher": None, "phases": phases, "only": ["staged"]}
    built = build_settings(AblationSettings, values(home) | changed, "x")
    root = Path(__file__).parents[2]
    built.phases = {n: (root if n == "teacher" else home) / f for n, f in built.phases.items()}
    steps = plan(built)
    assert [step.phase for step in steps[:2]] == ["teacher", "semantic"]
    assert steps[1].after == steps[0].folder
    assert sum(step.after == steps[0].folder for step in steps) == 2  # one for each seed


@pytest.mark.slow
def test_two_jobs_side_by_side_give_the_results_of_one(home, tmp_path):
    only = ["staged", "independent"]
    ablate.ablate(settings(home, out=str(tmp_path / "out"), seeds=[0], only=only, jobs=2))
    found = {row["variant"]: row["measures"] for row in summary(tmp_path)["rows"]}
    wanted = {row["variant"]: row["measures"] for row in summary(home)["rows"]}
    for name, measures in found.items():
        first = wanted[name]["psnr"]["values"][0]
        assert measures["psnr"]["values"] == pytest.approx([first], abs=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": []}, '"seeds" must be .*at least 1 item'),
        ({"seeds": [1, 1]}, "given twice"),
        ({"variants": {}}, '"variants" must be .*at least 1 item'),
        ({"variants": {"a b": VARIANTS["staged"]}}, "leave out spaces"),
        (
            {"variants": {"a": {"about": "", "phases": {}}}},
            '"variants.a.phases" must be .*at least 1',
        ),
        ({"phases": {"semantic": "semantic.yaml"}}, "lacks the file of decoder, joint, pixel"),
        ({"teacher": None}, "lacks the file of teacher"),
        ({"probes": {"colour": ["green", "pink"]}}, "names exactly one of the words"),
        ({"test_source": "nowhere"}, "nowhere"),
    ],
)
def test_an_ablation_that_cannot_be_is_one_sentence(home, tmp_path, changed, message):
    changed = {"out": str(tmp_path / "out"), "seeds": [0]} | changed
    if "probes" in changed:  # the models are there, only measuring is left
        changed["out"] = str(home / "out")
    with pytest.raises(UserError, match=message):
        ablate.ablate(settings(home, **changed))


def test_an_unknown_variant_or_phase_is_named(home):
    with pytest.raises(UserError, match=r"'flat' is not a variant.*staged"):
        plan(settings(home, only=["flat"]))
    odd = {"odd": {"about": "", "phases": {"pixel": {}}}}
    with pytest.raises(UserError, match="phase pixel of a variant cannot start from a teacher"):
        plan(settings(home, variants=odd))
    odd = {"odd": {"about": "", "phases": {"polish": {}}}}
    phases = values(home)["phases"] | {"polish": "pixel.yaml"}
    with pytest.raises(UserError, match="'polish' is not a phase"):
        plan(settings(home, variants=odd, phases=phases))


def test_only_takes_names_from_the_command_line(home, capsys):
    argv = ["ablate", "--config", str(home / "ablation.yaml")]
    assert cli.main([*argv, "only=[staged, stagged]"]) == 2
    assert "'stagged' is not a variant" in capsys.readouterr().err
    assert cli.main([*argv, "only=[staged, staged]"]) == 2
    assert "different names" in capsys.readouterr().err
