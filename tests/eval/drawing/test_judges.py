"""The networks behind the text-to-image scores: a tiny random detector, and models as judges."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    SwinConfig,
)

from eval.drawing.geneval_detector import NOTE, Detector, box_of
from eval.drawing.question_scores import VisionLanguageJudge
from runtime.errors import UserError
from tests.mllm.tiny import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        dim_feedforward=16, num_queries=6, num_labels=3,
        id2label={0: "cat", 1: "mouse", 2: "dog"}, label2id={"cat": 0, "mouse": 1, "dog": 2},
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    Mask2FormerImageProcessor(size=size).save_pretrained(folder)
    return folder


def test_a_detector_from_a_folder_gives_objects_in_the_benchmarks_words(
    detector_folder, monkeypatch
):
    monkeypatch.setattr("eval.drawing.geneval_detector.THRESHOLD", 0.0)  # its weights are random
    detector = Detector(str(detector_folder))
    assert NOTE in detector.label
    found = detector(Image.effect_noise((50, 40), 90).convert("RGB"))
    assert found
    assert {detection.label for detection in found} <= {"cat", "computer mouse", "dog"}
    for detection in found:
        assert detection.mask.shape == (40, 50) and 0 <= detection.score <= 1
        left, top, right, bottom = detection.box
        assert 0 <= left < right <= 50 and 0 <= top < bottom <= 40


def test_a_box_holds_its_mask():
    mask = np.zeros((10, 20), bool)
    mask[3:5, 7:12] = True
    assert box_of(mask) == (7, 3, 12, 5)


def test_judges_that_cannot_be_loaded():
    for name, load in (("facebook/mask2former-swin-small-coco-instance", Detector),
                       ("Qwen/Qwen2.5-VL-3B-Instruct", VisionLanguageJudge)):  # fmt: skip
        with pytest.raises(UserError, match="can be downloaded"):
            load(name)


IMAGE = Image.new("RGB", (16, 16), (220, 30, 30))


def test_a_vision_language_model_from_a_folder_judges(world, tmp_path):
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = AutoTokenizer.from_pretrained(world.start)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    template = (
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>"
        "{% else %} {{ c.text }}{% endif %}{% endfor %}{% endfor %} answer:"
    )
    size = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        chat_template=template, num_additional_image_tokens=1,
    ).save_pretrained(tmp_path)  # fmt: skip
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tiny, **heads, image_size=32, patch_size=8),
        text_config=LlamaConfig(**tiny, **heads, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    judge = VisionLanguageJudge(str(tmp_path))
    score = judge.loglikelihood(IMAGE, "is it red?", "yes")
    assert -50 < score < 0
    assert score != judge.loglikelihood(IMAGE, "is it red?", "no")
    other = Image.effect_noise((16, 16), 90).convert("RGB")
    assert score != judge.loglikelihood(other, "is it red?", "yes")  # it looks at the picture
    odds = np.exp(score) / (np.exp(score) + np.exp(judge.loglikelihood(IMAGE, "is it red?", "no")))
    assert judge.probability_of_yes(IMAGE, "is it red?") == pytest.approx(odds, abs=1e-6)
    judge.check(["is it red?", "is it blue?"])
    judge.context_length = 30
    with pytest.raises(UserError, match=r"reads at most 30: name another --judge"):
        judge.loglikelihood(IMAGE, "is it red?", "yes")
    with pytest.raises(UserError, match="The question 'is it red or blue or green"):
        judge.check(["is it red?", "is it red or blue or green or black or white?" * 9])
