"""`pipeline("any-to-any")` and `generate` on a saved folder, as transformers' users call them."""

import pytest
import torch
from transformers import AutoModelForMultimodalLM, pipeline

import mllm
from mllm import UnifiedForConditionalGeneration
from mllm.model.sampler import Sampler
from tests import processes
from tests.mllm.tiny import make_model, picture


@pytest.fixture(scope="module")
def folder(world, processor, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    make_model(world).save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline("any-to-any", model=str(folder))


def test_the_folder_loads_as_a_multimodal_model(folder):
    assert type(AutoModelForMultimodalLM.from_pretrained(folder)) is UnifiedForConditionalGeneration


@pytest.mark.parametrize("name", mllm.__all__)
def test_one_import_registers_all_that_a_pipeline_needs(folder, name):
    code = (
        f"from mllm import {name}\n"
        "from transformers import pipeline\n"
        f"pipe = pipeline('any-to-any', model={str(folder)!r})\n"
        "print(pipe(text='a red bar', generation_mode='image')[0]['generated_image'].size)\n"
    )
    finished = processes.run("-c", code)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "(16, 16)"


def test_the_pipeline_answers_as_generate_does(pipe):
    image, question = picture("red", "bar"), "what color is it?"
    result = pipe(text=question, images=image, max_new_tokens=6, return_full_text=False)
    inputs = pipe.processor.questions([image], [question])
    token_ids = pipe.model.generate(**inputs, max_new_tokens=6)
    expected = pipe.processor.tokenizer.decode(
        token_ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert result[0]["generated_text"].strip() == expected.strip()
    assert result[0]["input_text"] == question


def test_the_pipeline_answers_in_a_chat(pipe):
    image = picture("red", "bar")
    content = [{"type": "image", "image": image}, {"type": "text", "text": "what color is it?"}]
    chat = [{"role": "user", "content": content}]
    result = pipe(text=chat, max_new_tokens=6, return_full_text=False)
    plain = pipe(text="what color is it?", images=image, max_new_tokens=6, return_full_text=False)
    assert result[0]["generated_text"].strip() == plain[0]["generated_text"].strip()
    full = pipe(text=chat, max_new_tokens=6)
    assert full[0]["generated_text"][-1]["role"] == "assistant"


@pytest.mark.parametrize("as_chat", [False, True])
def test_the_pipeline_draws_what_generate_draws(pipe, as_chat):
    prompt = "a red bar"
    text = [{"role": "user", "content": [{"type": "text", "text": prompt}]}] if as_chat else prompt
    result = pipe(text=text, generation_mode="image")
    inputs = pipe.processor.drawings([prompt])
    token_ids = pipe.model.generate(**inputs, generation_mode="image")
    expected = pipe.processor.pictures(pipe.model.decode_image_tokens(token_ids))[0]
    assert result[0]["generated_image"].tobytes() == expected.tobytes()
    assert expected.size == (16, 16)


def test_the_pipeline_takes_the_settings_of_a_drawing(pipe):
    results = [
        pipe(
            text="a red bar",
            generation_mode="image",
            generate_kwargs={"seeds": [seed], "guidance_scale": 1.0, "temperature": 3.0},
        )[0]["generated_image"].tobytes()
        for seed in (1, 1, 2, 3, 4)
    ]
    assert results[0] == results[1]
    assert len(set(results)) > 1


def test_several_prompts_in_one_call(pipe):
    results = pipe(text=["a red bar", "a blue box and a long tail"], generation_mode="image")
    assert [r["input_text"] for r in results] == ["a red bar", "a blue box and a long tail"]
    assert all(r["generated_image"].size == (16, 16) for r in results)


def test_an_image_can_be_closed_by_its_end_token(model, processor):
    inputs = processor.drawings(["a red bar", "a box"])
    token_ids = model.generate(**inputs, generation_mode="image")
    closed = model.generate(**inputs, generation_mode="image", end_of_image=True)
    assert torch.equal(closed[:, :-1], token_ids)
    assert (closed[:, -1] == processor.chat.end_of_image_id).all()


def test_settings_of_generate_go_before_those_of_the_config(model, processor):
    inputs = processor.drawings(["a red bar", "a box"])
    greedy = model.generate(**inputs, generation_mode="image", do_sample=False, guidance_scale=1.0)
    sampler = Sampler(guidance_scale=1.0, temperature=0.0)
    assert torch.equal(greedy, model.generate(**inputs, generation_mode="image", sampler=sampler))
    with pytest.raises(TypeError, match="no argument 'temprature'"):
        model.generate(**inputs, generation_mode="image", temprature=2.0)


def test_text_is_what_transformers_itself_generates(hierarchical_model, processor):
    """Greedy, token by token, against the language model alone on the same embeddings."""
    model = hierarchical_model
    inputs = processor.questions([picture("red", "bar")], ["what color is it?"])
    filled = model.fill_image_tokens(inputs["input_ids"], inputs["pixel_values"])
    ours = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    theirs = model.language_model.generate(
        inputs_embeds=model.embed(filled),
        attention_mask=inputs["attention_mask"],
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    assert ours[0, filled.shape[1] :].tolist() == theirs[0].tolist()
