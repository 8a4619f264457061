from eval.reports.published_results import (
    published,
    reconstruction_differences,
    reconstruction_table,
    understanding_table,
)

LIKE_THE_FIELD = {
    "scores": {"FID": {"value": 1.5, "interval": None}},
    "num_images": 50000,
    "resolution": 256,
    "crop": "ADM: halved by a box filter",
    "feature_networks": ["Inception-v3"],
}


def test_a_run_measured_alike_falls_into_the_column():
    table = reconstruction_table(LIKE_THE_FIELD)
    assert table.rows[-1] == ("this run", "256²", "1.50")
    assert ("SemHiTok", "256²", "1.16") in table.rows and "50,000" in table.note


def test_a_run_measured_otherwise_stays_out_and_is_told_why():
    other = LIKE_THE_FIELD | {
        "scores": {"Fréchet distance (EfficientNet-Lite0)": {"value": 1.5}},
        "feature_networks": ["EfficientNet-Lite0"],
        "num_images": 1000,
        "resolution": 64,
        "crop": "shorter side",
    }
    differs = reconstruction_differences(other)
    assert len(differs) == 4
    shown = reconstruction_table(other).rows[-1][-1]
    assert "EfficientNet-Lite0, not Inception-v3" in shown and "1.50" not in shown


def test_understanding_has_every_peer_with_a_source():
    whole = {"task": "gqa", "num_questions": 12578, "overall": {"accuracy": 0.6}, "figures": {}}
    table = understanding_table(whole)
    assert table.rows[-1] == ("this run", "–", "–", "–", "–", "60")
    assert len(table.rows) == len(published()["understanding"]["results"]) + 1
    assert "2503.06764" in table.note


def test_a_run_over_a_whole_benchmark_falls_into_its_column():
    whole = {"num_questions": 9000, "overall": {"accuracy": 0.7}, "figures": {}}
    pope = whole | {"task": "pope", "figures": {"mean_accuracy": 0.825}}
    assert understanding_table(pope).rows[-1] == ("this run", "–", "82.5", "–", "–", "–")
    mme = whole | {"task": "mme", "num_questions": 2374, "figures": {"perception": 1356.25}}
    mme["image_resolution"] = 256
    assert understanding_table(mme).rows[-1][1:4] == ("256²", "–", "1356")
    seed = whole | {"task": "seedbench", "num_questions": 14233}
    assert understanding_table(seed).rows[-1][4] == "70"


def test_a_part_of_a_benchmark_stays_out_and_others_have_no_table():
    part = {"task": "gqa", "num_questions": 40, "overall": {"accuracy": 0.7}, "figures": {}}
    assert understanding_table(part).rows[-1][-1] == "not comparable: 40 questions, not 12,578"
    assert understanding_table(part | {"task": "easy-vqa"}) is None
