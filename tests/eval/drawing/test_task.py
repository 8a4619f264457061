"""Benchmarks scored on drawings that are there, by tiny random networks and by fake judges."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from data_pipelines.text_tokenizer import train_text_tokenizer
from eval.drawing import clip_score
from eval.drawing import task as drawing_task
from eval.drawing.geneval_rule import COLOURS, Detection
from eval.drawing.layouts import read_prompts, save_drawing, write_beside
from eval.drawing.scored import open_pictures
from eval.drawing.settings import GenerationSettings
from eval.measures.conditions import differences
from eval.measures.feature_networks import FeatureNetwork
from eval.measures.settings import SetDistanceSettings
from runtime.errors import UserError
from tests.eval.conftest import summary_of

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a cat"},
    {
        "tag": "colors",
        "include": [{"class": "cat", "count": 1, "color": "red"}],
        "prompt": "a red cat",
    },
]
TINY = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(97 + i) for i in range(26)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=32
    )
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**TINY, image_size=32, patch_size=8)
    text = CLIPTextConfig(
        **TINY, vocab_size=len(words), eos_token_id=len(words) - 1, max_position_embeddings=32
    )
    config = CLIPConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=8
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def geneval(tmp_path):
    """A prompt file, and drawings in its layout: even grey levels that rise."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in GENEVAL))
    prompts = read_prompts("geneval", file)
    for number, prompt in enumerate(prompts):
        images = [Image.new("RGB", (32, 32), (60 * i, 20 * number, 0)) for i in range(4)]
        save_drawing("geneval", tmp_path / "drawings", prompt, images)
    write_beside("geneval", tmp_path / "drawings", prompts)
    return file


def measure(tmp_path, task, file, out="out", **options):
    """The summary of the drawings in a folder."""
    settings = GenerationSettings(
        task=task, prompts=file, out=tmp_path / out, images=tmp_path / "drawings", **options
    )
    return summary_of(drawing_task.evaluate(settings))


def test_clipscore_by_a_folder_is_the_cosine_of_both_embeddings(clip_folder):
    clip = clip_score.Clip(str(clip_folder))
    images = [Image.new("RGB", (40, 32), colour) for colour in ("red", "teal")]
    scores = clip.scores(images, ["a red square", "a teal square"])
    cosine = float(clip.embed_images(images)[1] @ clip.embed_texts(["a teal square"])[0])
    assert scores[1] == pytest.approx(100 * max(cosine, 0), abs=1e-3)
    assert clip.embed_images(images).norm(dim=-1).tolist() == pytest.approx([1, 1])


def test_a_text_beyond_the_models_length_is_cut_there_and_counted(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "unlimited")
    config = folder / "tokenizer_config.json"
    values = json.loads(config.read_text()) | {"model_max_length": 10**30}
    config.write_text(json.dumps(values))  # as many folders have it
    long, short = "a b c d " * 40, "a b c d"
    for clip in (clip_score.Clip(str(clip_folder)), clip_score.Clip(str(folder))):
        assert clip.text_length == 32
        assert clip.is_cut(long) and not clip.is_cut(short)
        assert clip.embed_texts([long, short]).shape == (2, 8)
        # The texts beside it do not change a text's embedding.
        alone, beside = clip.embed_texts([short])[0], clip.embed_texts([long, short])[1]
        assert torch.allclose(alone, beside, atol=1e-6)


def test_texts_of_a_siglip_are_padded_as_it_was_trained(tmp_path):
    tokenizer = train_text_tokenizer(["a dog", "a longer text about it"] * 20, 300)
    config = SiglipConfig(
        text_config=dict(TINY, vocab_size=len(tokenizer), max_position_embeddings=16),
        vision_config=dict(TINY, image_size=32, patch_size=8),
    )
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(tmp_path / "siglip")
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    SiglipProcessor(images, tokenizer).save_pretrained(tmp_path / "siglip")
    clip = clip_score.Clip(str(tmp_path / "siglip"))
    tokenizer = clip.processor.tokenizer
    ids = tokenizer("a dog", padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = clip.model.get_text_features(input_ids=ids).pooler_output[0]
    for texts in (["a dog"], ["a dog", "a longer text about it"]):
        assert torch.allclose(clip.embed_texts(texts)[0], expected / expected.norm(), atol=1e-5)


def test_the_colour_of_a_crop_is_the_nearest_sentence(clip_folder):
    clip = clip_score.Clip(str(clip_folder))
    image = Image.effect_noise((40, 40), 90).convert("RGB")
    detection = Detection("cat", 0.9, (4, 4, 30, 30))
    found = clip_score.ColourNamer(clip)(image, detection)
    embedding = clip.embed_images([clip_score.object_crop(image, detection)])[0]
    means = [
        clip.embed_texts(
            [f"a photo of a {c} cat", f"a photo of a {c}-colored cat", f"a photo of a {c} object"]
        ).mean(0)
        for c in COLOURS
    ]
    cosines = [float(embedding @ mean / mean.norm()) for mean in means]
    assert found == COLOURS[int(np.argmax(cosines))]


def test_a_crop_is_the_box_with_the_background_grey():
    image = Image.new("RGB", (20, 10), "red")
    mask = np.zeros((10, 20), bool)
    mask[2:6, 5:9] = True
    crop = clip_score.object_crop(image, Detection("cat", 0.9, (4.0, 2.0, 9.0, 6.0), mask))
    assert crop.size == (5, 4)
    assert crop.getpixel((0, 0)) == (153, 153, 153) and crop.getpixel((1, 0)) == (255, 0, 0)


def test_geneval_is_scored_from_a_folder_of_drawings(tmp_path, geneval, clip_folder, monkeypatch):
    class Detector:
        """Sees a cat where the red channel is bright."""

        label = "fake (not the official detector)"

        def __init__(self, name):
            pass

        def __call__(self, image):
            return [Detection("cat", np.asarray(image)[..., 0].mean() / 200, (0, 0, 32, 32))]

    monkeypatch.setattr("eval.drawing.scorers.Detector", Detector)
    monkeypatch.setattr(clip_score.ColourNamer, "__call__", lambda self, image, seen: "red")
    summary = measure(tmp_path, "geneval", geneval, clip=str(clip_folder), detector="default")
    # Levels 0, 60, 120, 180 give confidences 0, .3, .6, .9: two of four exceed .3.
    assert summary["geneval"]["accuracy"] == 0.5
    assert summary["scores"]["GenEval, not the official detector"]["value"] == 0.5
    assert "not the official detector" in summary["detector"]
    assert not summary["is_whole_benchmark"]
    names = list(summary["scores"])
    assert any(name.startswith("CLIPScore") for name in names)
    rows = (tmp_path / "out" / "judged.jsonl").read_text().splitlines()
    assert len(rows) == 8 and sum(json.loads(row)["correct"] for row in rows) == 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("✗ wrong") and "part of the benchmark" in page


def test_dpg_is_judged_by_questions_with_their_parents(tmp_path, monkeypatch):
    columns = "item_id,text,proposition_id,dependency,tuple,question_natural_language"
    rows = [
        "a,a cat on a mat,1,0,entity - whole (cat),skipped as the first row?",
        "a,a cat on a mat,2,0,entity - whole (mat),Is there a mat?",
        'a,a cat on a mat,3,"2",attribute - color (mat),Is the mat red?',
        "b,a dog,1,0,entity - whole (dog),Is there a dog?",
    ]
    file = tmp_path / "dpg.csv"
    file.write_text("\n".join([columns, *rows]) + "\n")
    for prompt in read_prompts("dpg", file):
        images = [Image.new("RGB", (8, 8), (80 * i, 0, 0)) for i in range(4)]
        save_drawing("dpg", tmp_path / "drawings", prompt, images)

    class Judge:
        label = "fake"

        def check(self, questions):
            assert all(questions)

        def probability_of_yes(self, image, question):
            return float("mat?" not in question)  # no mat, but red

    monkeypatch.setattr("eval.drawing.question_scores.VisionLanguageJudge", lambda name: Judge())
    summary = measure(tmp_path, "dpg", file, judge="fake")
    # No mat: its colour counts for nothing in the total, but keeps its raw answer in its category.
    assert summary["dpg"]["accuracy"] == pytest.approx((0 + 1) / 2)
    assert summary["dpg"]["by_task"]["attribute - color"]["accuracy"] == pytest.approx(1)
    assert summary["dpg"]["by_task"]["entity"]["accuracy"] == pytest.approx(0.5)
    assert summary["judge"] == "fake" and "first row" in summary["rule"]


def test_dpg_counts_yes_and_no_as_officially(tmp_path, monkeypatch):
    columns = "item_id,text,proposition_id,dependency,tuple,question_natural_language"
    rows = ["a,a cat,1,0,entity (cat),?", *(f"a,a cat,{i},0,entity (cat),{i}" for i in (2, 3))]
    file = tmp_path / "dpg.csv"
    file.write_text("\n".join([columns, *rows]) + "\n")
    (prompt,) = read_prompts("dpg", file)
    save_drawing("dpg", tmp_path / "drawings", prompt, [Image.new("RGB", (8, 8))] * 4)

    class Judge:
        label = "fake"

        def check(self, questions):
            assert all(questions)

        def probability_of_yes(self, image, question):
            return {"2": 0.6, "3": 0.2}[question]

    monkeypatch.setattr("eval.drawing.question_scores.VisionLanguageJudge", lambda name: Judge())
    summary = measure(tmp_path, "dpg", file, judge="fake")
    assert summary["dpg"]["accuracy"] == pytest.approx(0.5)
    assert list(summary["scores"]) == ["DPG-Bench, judged by fake"]
    row = json.loads((tmp_path / "out" / "judged.jsonl").read_text())
    assert row["answers"][0] == {"2": 0.6, "3": 0.2}


def test_drawings_against_real_images(tmp_path, geneval):
    real = tmp_path / "real"
    real.mkdir()
    for number in range(6):
        Image.effect_noise((40, 40), 50).convert("RGB").save(real / f"{number}.png")
    common = {"reference": str(real), "network": ["efficientnet-lite0"]}
    summary = measure(tmp_path, "geneval", geneval, distance=["kid"], **common)
    score = summary["scores"]["KID (EfficientNet-Lite0)"]
    assert score["value"] > 0 and score["num_images"] == [6, 8]
    with pytest.raises(UserError, match="--distance kid"):
        measure(tmp_path, "geneval", geneval, "other", **common)


def test_scores_are_added_to_finished_drawings_and_none_is_taken_away(tmp_path, geneval):
    (tmp_path / "real").mkdir()
    for number in range(6):
        Image.effect_noise((40, 40), 50).convert("RGB").save(tmp_path / f"real/{number}.png")
    common = {"distance": ["kid"]}
    assert measure(tmp_path, "geneval", geneval, **common)["scores"] == {}
    common |= {"reference": str(tmp_path / "real"), "network": ["efficientnet-lite0"]}
    assert len(measure(tmp_path, "geneval", geneval, **common)["scores"]) == 1
    with pytest.raises(UserError, match="a run with another network, reference; give those"):
        measure(tmp_path, "geneval", geneval, distance=["kid"])


def test_a_feature_network_may_lie_in_a_folder_with_commas(tmp_path):
    folder = tmp_path / "dino, small"
    folder.mkdir()
    given = SetDistanceSettings.model_validate({"network": str(folder)})
    assert given.network == [str(folder)]
    weights = f"inception:{folder}"
    assert SetDistanceSettings.model_validate({"network": weights}).network == [weights]
    both = SetDistanceSettings.model_validate({"network": "inception,efficientnet-lite0"})
    assert both.network == ["inception", "efficientnet-lite0"]


def test_drawings_of_other_systems_are_read_like_every_picture(tmp_path, geneval):
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))  # shown, it is white
    for path in (tmp_path / "drawings").rglob("*.png"):
        clear.save(path)
    prompt = read_prompts("geneval", geneval)[0]
    pictures = open_pictures(tmp_path / "drawings", "geneval", prompt)
    assert {picture.getpixel((5, 5)) for picture in pictures} == {(255, 255, 255)}


def test_prompts_that_clip_cuts_are_counted_beside_the_score(tmp_path, clip_folder):
    file = tmp_path / "prompts"
    file.write_text("a b\n" + "a b c d " * 20 + "\n")
    for prompt in read_prompts("t2i-compbench", file, 1):
        image = [Image.new("RGB", (32, 32), "red")]
        save_drawing("t2i-compbench", tmp_path / "drawings", prompt, image)
    summary = measure(tmp_path, "t2i-compbench", file, clip=str(clip_folder), seeds=1)
    (score,) = summary["scores"].values()
    assert score["num_images"] == 2 and score["num_cut"] == 1
    assert "2 images, 1 prompts cut" in (tmp_path / "out" / "report.md").read_text()


@pytest.fixture
def mjhq(tmp_path):
    """Three drawings of one category and two of another, and real images in folders like them."""
    categories = {"animals": 3, "food": 2}
    rows = {
        f"{name}{i}": {"category": name, "prompt": f"{name} {i}"}
        for name, number in categories.items()
        for i in range(number)
    }
    file = tmp_path / "meta_data.json"
    file.write_text(json.dumps(rows))
    for number, prompt in enumerate(read_prompts("mjhq", file)):
        drawing = Image.effect_noise((32, 32), 10 * number).convert("RGB")
        save_drawing("mjhq", tmp_path / "drawings", prompt, [drawing])
    for name in (*categories, "vehicles"):
        (tmp_path / "real" / name).mkdir(parents=True)
        for i in range(4):
            Image.effect_noise((40, 40), 50).convert("RGB").save(
                tmp_path / "real" / name / f"{i}.jpg"
            )
    return file


def test_mjhq_has_a_distance_for_each_category_beside_the_overall_one(tmp_path, mjhq):
    common = {"reference": str(tmp_path / "real"), "network": ["efficientnet-lite0"]}
    summary = measure(tmp_path, "mjhq", mjhq, distance=["kid"], **common)
    name = "KID (EfficientNet-Lite0)"
    assert summary["scores"][name]["num_images"] == [12, 5]
    assert list(summary["by_category"]) == ["animals", "food"]
    assert summary["by_category"]["animals"][name]["num_images"] == [4, 3]
    assert summary["scores"][f"{name}: food"] == summary["by_category"]["food"][name]
    assert summary["by_category_absent"] is None
    assert f"{name}: food" in (tmp_path / "out" / "report.html").read_text()


def test_clean_fid_takes_real_images_uncut_and_apart_from_other_networks(
    tmp_path, mjhq, monkeypatch
):
    sizes = []

    def load(name):
        def extract(images):
            sizes.append(tuple(images.shape[-2:]))
            return images.flatten(1)[:, :6]

        return FeatureNetwork(name, name, 6, "f0", extract)

    monkeypatch.setattr("eval.drawing.set_distances.load_feature_network", load)
    common = {"reference": str(tmp_path / "real"), "distance": ["kid"]}
    network = ["inception-clean"]
    summary = measure(tmp_path, "mjhq", mjhq, network=network, **common)
    assert set(sizes) == {(299, 299), (32, 32)}  # the real ones, and the drawings as they are
    assert "nothing cut" in summary["crop"] and "KID (inception-clean)" in summary["scores"]
    with pytest.raises(UserError, match="measure them apart"):
        network = ["inception-clean", "inception"]
        measure(tmp_path, "mjhq", mjhq, "other", network=network, **common)


def test_mjhq_says_why_categories_are_not_told_apart(tmp_path, mjhq):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (tmp_path / "real").rglob("*.jpg"):
        path.rename(flat / f"{path.parent.name}-{path.name}")
    common = {"reference": str(flat), "network": ["efficientnet-lite0"]}
    summary = measure(tmp_path, "mjhq", mjhq, distance=["kid"], **common)
    assert summary["by_category"] == {} and len(summary["scores"]) == 1
    assert summary["by_category_absent"].startswith("0 real images in the folder animals")
    assert "0 real images in the folder animals" in (tmp_path / "out" / "report.md").read_text()


def test_other_systems_drawings_stand_beside_ours_and_bear_no_record_of_ours(tmp_path, geneval):
    record = {"model": "ours", "sampler": {}, "prompts_rewritten": False}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "drawing.json").write_text(json.dumps(record))  # of an earlier --model
    theirs = measure(tmp_path, "geneval", geneval)
    assert "model" not in theirs and theirs["prompts_rewritten"].startswith("not known")
    assert theirs["num_drawings"] == 8 and theirs["prompts_sha256"]
    ours = theirs | {"prompts_rewritten": False}
    assert differences([ours, theirs]) == []
    assert differences([ours, theirs | {"prompts_sha256": "x"}])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"detector": "default"}, "need a CLIP"),
        ({"judge": "a/judge"}, "dpg and geneval2, not of geneval"),
        ({"network": ["efficientnet-lite0"]}, "give --reference"),
        ({"reference": "."}, "name its --network"),
        ({"prompts": None}, "give --prompts"),
        ({"images": None}, "give either --model to draw"),
    ],
)
def test_scores_that_cannot_be(tmp_path, geneval, options, complaint):
    drawings = {"task": "geneval", "prompts": geneval, "images": tmp_path / "drawings"}
    with pytest.raises(ValueError, match=complaint):
        GenerationSettings(out=tmp_path / "out", **(drawings | options))


def test_a_clip_that_is_none_is_one_sentence(tmp_path, geneval):
    with pytest.raises(UserError, match="No CLIP can be loaded"):
        measure(tmp_path, "geneval", geneval, clip="openai/clip-vit-large-patch14")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tag": "colours"}, "has the tag 'colours'"),
        ({"include": "cat"}, "no list 'include'"),
        ({"include": [{"class": "cat"}]}, "no \"count\" above zero for 'cat'"),
        ({"exclude": [{"count": 1}]}, "no list 'exclude'"),
        ({"include": [{"class": "cat", "count": 1, "position": ["above", 0]}]}, "to nothing named"),
    ],
)
def test_lines_that_genevals_rule_cannot_judge_are_refused_first(
    tmp_path, geneval, clip_folder, change, complaint
):
    geneval.write_text("".join(json.dumps(row | change) + "\n" for row in GENEVAL))
    options = {"detector": "default", "clip": str(clip_folder)}
    with pytest.raises(UserError, match=complaint):
        measure(tmp_path, "geneval", geneval, **options)


@pytest.mark.parametrize(
    "change",
    [{"vqa_list": ["a dog?"]}, {"vqa_list": []}, {"vqa_list": [["a dog?", 1]]}, {"skills": []}],
)
def test_questions_of_another_form_are_refused_before_the_judge_is_loaded(tmp_path, change):
    row = {"prompt": "a dog", "vqa_list": [["a dog?", "Yes"]], "skills": ["object"]}
    file = tmp_path / "geneval2_data.jsonl"
    file.write_text(json.dumps(row | change))
    (tmp_path / "drawings").mkdir()
    with pytest.raises(UserError, match="questions about 'a dog' are not as"):
        measure(tmp_path, "geneval2", file, judge="nobody/nothing")
    table = tmp_path / "dpg_bench.csv"
    table.write_text(
        "item_id,text,proposition_id,dependency,tuple,question_natural_language\n"
        "1,a dog,1,none,entity - whole (dog),Is there a dog?\n"
    )
    with pytest.raises(UserError, match=r"questions about 'a dog' .*'none'"):
        measure(tmp_path, "dpg", table, judge="nobody/nothing")


def test_an_incomplete_export_is_not_scored(tmp_path, geneval):
    (tmp_path / "drawings" / "00001" / "samples" / "0002.png").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of the 10 files.*00001/samples/0002\.png"):
        measure(tmp_path, "geneval", geneval)
