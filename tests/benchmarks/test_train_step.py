import json

import pytest

from benchmarks import train_step


def test_it_ends_with_one_json_line_below_a_table(capsys):
    train_step.main(["--batch-size", "2", "--repeats", "1"])
    *table, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert record["benchmark"] == "train_step" and record["image_size"] == 64
    slow, fast = record["rows"]
    assert [slow["variant"], fast["variant"]] == ["float32", "bfloat16"]
    assert record["ratio"] == fast["images_per_second"] / slow["images_per_second"] > 0
    assert slow["held_gb"] == fast["held_gb"] > 0
    # Half the bits, in all but the look-ups.
    assert fast["step_gb"] < slow["step_gb"]
    assert len([line for line in table if line.startswith("|")]) == 4


def test_a_step_trains_what_the_pixel_phase_trains(tmp_path, monkeypatch):
    seen = []
    real = train_step.make_step

    def make_step(phase, variant, images):
        before = {k: v.clone() for k, v in phase.model.state_dict().items()}
        seen.append((phase, before))
        return real(phase, variant, images)

    monkeypatch.setattr(train_step, "make_step", make_step)
    train_step.main(["--batch-size", "2", "--repeats", "1", "--variants", "float32"])
    phase, before = seen[0]
    after = phase.model.state_dict()
    moved = {name.split(".")[0] for name in after if not after[name].equal(before[name])}
    assert moved == {"pixel_encoder", "pixel_sub_codebooks", "decoder"}


@pytest.mark.parametrize("wrong", [["--variants", "int8"], ["--size", "huge"]])
def test_what_is_not_there_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        train_step.main(wrong)
    assert "Traceback" not in capsys.readouterr().err
