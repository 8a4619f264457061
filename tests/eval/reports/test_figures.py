import base64
import io

import numpy as np
from PIL import Image

from eval.reports.figures import categorical_colours, code_map, embed_picture, training_curves


def decoded(shown):
    data = base64.b64decode(shown.uri.removeprefix("data:image/png;base64,"))
    return np.array(Image.open(io.BytesIO(data)))


def test_equal_codes_have_equal_colours_and_others_differ():
    codes = np.array([[0, 1], [2, 0]])
    pixels = decoded(code_map(codes, np.array([10, 5, 1])))
    assert (pixels[0, 0] == pixels[1, 1]).all()
    assert len({tuple(colour) for colour in pixels.reshape(-1, 3)}) == 3


def test_a_code_has_one_colour_in_all_maps():
    counts = np.array([3, 9, 1])
    first, second = code_map(np.array([[1]]), counts), code_map(np.array([[0, 1]]), counts)
    assert (decoded(first)[0, 0] == decoded(second)[0, 1]).all()


def test_colours_do_not_repeat():
    assert len({tuple(colour) for colour in categorical_colours(200)}) == 200


def test_embedding_keeps_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (decoded(embed_picture(pixels)) == pixels).all()


def test_curves_show_losses_first_and_skip_what_is_no_number():
    rows = [
        {"step": s, "accuracy": 0.5, "commitment_loss": 1.0, "loss": 2.0, "note": "x", "lr": 1e-3}
        for s in range(5)
    ]
    svg = training_curves(rows, "curves")
    assert svg.index(">loss<") < svg.index(">commitment_loss<") < svg.index(">accuracy<")
    assert ">note<" not in svg and ">lr<" not in svg


def test_a_diverged_loss_does_not_break_the_chart():
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}]
    assert training_curves(rows, "curves").startswith("<svg")


def test_a_log_without_numbers_has_no_chart():
    assert training_curves([], "curves") is None
    assert training_curves([{"step": 1, "lr": 0.1}], "curves") is None
