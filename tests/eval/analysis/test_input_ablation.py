import pytest
import torch

from eval.analysis.input_ablation import (
    AS_IT_IS,
    MUST_FALL,
    VARIANTS,
    ablation_section,
    corrupt,
    partners,
    verdicts,
)
from runtime.errors import UserError


@pytest.mark.parametrize("count", [2, 3, 50])
def test_everybody_gets_another_ones_codes_and_no_two_the_same(count):
    partner = partners(count, 0)
    assert sorted(partner.tolist()) == list(range(count))
    assert not (partner == torch.arange(count)).any()
    assert torch.equal(partner, partners(count, 0))


def test_one_image_cannot_be_shuffled():
    with pytest.raises(UserError, match="at least 2"):
        partners(1, 0)


def test_each_variant_takes_away_what_it_says():
    codes = torch.randint(0, 64 * 8, (20, 16), generator=torch.Generator().manual_seed(0))
    blank = torch.full((16,), 5)
    changed = corrupt(codes, blank, 8, seed=0)
    assert list(changed) == list(VARIANTS)
    others = codes[partners(20, 0)]
    assert torch.equal(changed[AS_IT_IS], codes) and torch.equal(changed["shuffled images"], others)
    assert (changed["blank images"] == 5).all()
    semantic, pixel = changed["shuffled semantic codes"], changed["shuffled pixel codes"]
    assert torch.equal(semantic // 8, others // 8) and torch.equal(semantic % 8, codes % 8)
    assert torch.equal(pixel // 8, codes // 8) and torch.equal(pixel % 8, others % 8)


def variants(**changes):
    def score(value):
        return {"value": value, "interval": [value - 0.1, value + 0.1]}

    whole = {"vqa": score(0.9), "psnr": score(28.0)}
    found = {name: {"vqa": score(0.5), "psnr": score(12.0)} for name in VARIANTS}
    return found | {AS_IT_IS: whole} | changes


def test_a_score_that_stays_where_it_must_fall_is_marked():
    assert all(all(fell.values()) for fell in verdicts(variants()).values())
    deaf = variants()
    deaf["blank images"] = deaf[AS_IT_IS]
    found = verdicts(deaf)
    assert found["blank images"] == {"vqa": False, "psnr": False}
    assert found["shuffled images"] == {"vqa": True, "psnr": True}
    assert set(found) == set(MUST_FALL) and "vqa" not in found["shuffled pixel codes"]
    summary = {"variants": deaf, "verdicts": found, "num_images": 2, "num_questions": 3}
    rows = ablation_section(summary | {"num_drawings": 0}).rows
    assert rows[2][2].endswith("!") and rows[1][2].endswith("▼")


def test_half_an_interval_is_no_fall():
    near = variants()
    near["blank images"] = {"vqa": {"value": 0.85}, "psnr": {"value": 27.95}}
    assert verdicts(near)["blank images"] == {"vqa": False, "psnr": False}
