from eval.reconstruction.report import differences_to_published, published_table

LIKE_THE_FIELD = {
    "scores": {"FID": {"value": 1.5, "interval": None}},
    "num_images": 50000,
    "resolution": 256,
    "crop": "ADM: halved by a box filter",
    "feature_networks": ["Inception-v3"],
}


def test_a_run_measured_alike_falls_into_the_column():
    table = published_table(LIKE_THE_FIELD)
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
    differs = differences_to_published(other)
    assert len(differs) == 4
    shown = published_table(other).rows[-1][-1]
    assert "EfficientNet-Lite0, not Inception-v3" in shown and "1.50" not in shown
