"""The compiled pass draws what the eager one draws, for every family, length and head."""

import shutil
import tempfile

import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks.generate_model import SIZES, make_model
from mllm.drawing.cpu import compiled_pass, prepacked, tables
from mllm.drawing.cpu.compiled_pass import CompiledPass
from mllm.drawing.cpu.prepacked import PrepackedLinear
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.drawing.step.decoder_step import LeanStep
from mllm.model.sampler import Sampler
from mllm.serving.edit import keep_where
from runtime.errors import UserError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling takes a C++ compiler"),
]
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 256, "head_dim": 8,
    "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES = {
    "mistral": {"sliding_window": 9},
    "gemma3_text": {"sliding_window": 9, "query_pre_attn_scalar": 8},
}


@pytest.mark.parametrize("head, batch_size", [("hierarchical", 4), ("flat", 8)])
def test_a_compiled_step_draws_what_the_eager_one_draws(head, batch_size):
    model = make_model("quickstart", head, 16)
    sampler = Sampler(guidance_scale=2.0)
    jobs = [ImageJob((5, 6, 7, *range(10, 10 + number)), (8, 9), number) for number in range(6)]
    kept = keep_where(torch.arange(16), torch.arange(16) < 4, 8)
    jobs.append(ImageJob((5, 6), (8,), 7, 0, kept))
    eager = dict(DrawingEngine(model, sampler, batch_size).draw(jobs))
    engine = DrawingEngine(model, sampler, batch_size, compile_step=True)
    compiled = dict(engine.draw(jobs))
    assert all(torch.equal(eager[number], compiled[number]) for number in eager)
    assert torch.equal(dict(engine.draw(jobs[3:4]))[0], compiled[3])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_serves_longer_prompts_than_it_was_compiled_for(family, monkeypatch):
    text = TEXT | FAMILIES[family] | {"model_type": family}
    monkeypatch.setitem(SIZES, "small", {"text": text, "codes": (32, 4), "code_dim": 8})
    monkeypatch.setattr(compiled_pass, "LEAST_TABLED", 64)  # the last prompt goes beyond it
    model = make_model("small", "flat", 16)
    with torch.no_grad():
        for parameter in (*model.language_model.parameters(), *model.adapter.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    sampler = Sampler(guidance_scale=2.0)
    jobs = [ImageJob((5, 6) * (1 + 7 * number), (8, 9), number) for number in range(5)]
    eager = dict(DrawingEngine(model, sampler, 2).draw(jobs))
    compiled = dict(DrawingEngine(model, sampler, 2, compile_step=True).draw(jobs))
    assert all(torch.equal(eager[number], compiled[number]) for number in eager)


@pytest.mark.parametrize("rows, narrowed", [(2, False), (8, False), (16, True), (32, True)])
def test_blocks_of_16_rows_where_the_rows_divide_by_16_and_the_list_is_known(rows, narrowed):
    import torch._inductor.lowering  # noqa: F401
    from torch._inductor.codegen.cpp_micro_gemm import micro_gemm_configs as lists

    kind = next(kind for kind in lists if kind.__name__ == "CppMicroGemmFP32Vec")
    before = list(lists[kind])
    with compiled_pass._square_blocks(rows):
        inside = list(lists[kind])
    assert lists[kind] == before
    removed = [config for config in before if config not in inside]
    blocks = {tuple(config.register_blocking[:2]) for config in removed}
    assert blocks == ({(8, 48), (8, 32)} if narrowed else set())
    assert all(config.vec_isa_cls.__name__ == "VecAVX512" for config in removed)
    del lists[kind]  # as a later torch may have it
    try:
        with compiled_pass._square_blocks(16):
            assert kind not in lists
    finally:
        lists[kind] = before


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("head, family", [("flat", "llama"), ("hierarchical", "gemma3_text")])
def test_prepacked_weights_draw_the_same_compiled_and_leave_no_files(
    head, family, monkeypatch, tmp_path
):
    text = TEXT | FAMILIES.get(family, {}) | {"model_type": family}
    monkeypatch.setitem(SIZES, "small", {"text": text, "codes": (32, 4), "code_dim": 8})
    monkeypatch.setattr(prepacked, "LEAST_NUMBERS", 1)
    monkeypatch.setattr(tables, "MAX_NUMBERS", 1)  # as of a large model: no tables
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, sampler = make_model("small", head, 16), Sampler(guidance_scale=2.0)
    jobs = [ImageJob((5, 6) * (1 + 3 * number), (8, 9), number) for number in range(5)]
    eager = dict(DrawingEngine(model, sampler, 2).draw(jobs))
    engine = DrawingEngine(model, sampler, 2, compile_step=True)
    out = (
        engine.step.layers[0].out
        if isinstance(engine.step, LeanStep)
        else engine.step.decoder.layers[0].self_attn.o_proj
    )
    assert isinstance(out, PrepackedLinear)
    compiled = dict(engine.draw(jobs))
    assert all(torch.equal(eager[number], compiled[number]) for number in eager)
    # What is compiled has the weights in it: too much to stay on the disk, even while it is used,
    # since a killed process would leave it there.
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".so", ".pt2", ".bin")]


def test_a_compiler_that_torch_would_not_call_is_none(monkeypatch, tmp_path):
    other = tmp_path / "clang++"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    model = make_model("quickstart", "flat", 16)
    with pytest.raises(UserError, match=r"there is no .*g\+\+: install it"):
        DrawingEngine(model, batch_size=2, compile_step=True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("C++ compile error\ng++ -O1\nx.h:1: fatal error: no room\n | ^"), "no room"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_compilation_that_fails_is_told_in_one_sentence(monkeypatch, error, reason):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    model = make_model("quickstart", "flat", 16)
    engine = DrawingEngine(model, batch_size=2, compile_step=True)
    with pytest.raises(UserError, match=rf"{reason}\): .* TMPDIR, .* or draw without --compile"):
        dict(engine.draw([ImageJob((5, 6), (8,), 0)]))


def test_a_compilation_that_failed_is_tried_again(monkeypatch):
    tried = []

    def fail(*_, **__):
        tried.append(1)
        raise RuntimeError("no room")

    text = TEXT | {"model_type": "llama"}
    monkeypatch.setitem(SIZES, "small", {"text": text, "codes": (32, 4), "code_dim": 8})
    engine = DrawingEngine(make_model("small", "flat", 16), batch_size=1, compile_step=True)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    for number in (1, 2):  # nor is the pass run that was compiled for less
        with pytest.raises(UserError, match="no room"):
            dict(engine.draw([ImageJob((5, 6), (8,), 0)]))
        assert len(tried) == number


def test_a_model_that_cannot_be_compiled_is_refused(monkeypatch):
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    text = TEXT | {"model_type": "llama", "rope_parameters": rope}
    monkeypatch.setitem(SIZES, "small", {"text": text, "codes": (32, 4), "code_dim": 8})
    engine = DrawingEngine(make_model("small", "flat", 16), batch_size=2, compile_step=True)
    with pytest.raises(UserError, match=r"cannot be compiled, .*: draw without --compile"):
        dict(engine.draw([ImageJob((5, 6), (8,), 0)]))


def test_torch_compile_as_on_a_gpu_draws_the_same_and_compiles_once(monkeypatch):
    text = TEXT | {"model_type": "llama"}
    monkeypatch.setitem(SIZES, "small", {"text": text, "codes": (32, 4), "code_dim": 8})
    model, sampler = make_model("small", "flat", 16), Sampler(guidance_scale=2.0)
    jobs = [ImageJob((5, 6) * (1 + 20 * number), (8, 9), number) for number in range(3)]
    eager = dict(DrawingEngine(model, sampler, 2).draw(jobs))
    engine = DrawingEngine(model, sampler, 2, compile_step=True)
    run = engine.run.module
    engine.run = CompiledPass(
        run.choice, run.embed, run.step, prepacked=False, num_rows=4, ahead_of_time=False
    )
    before = counters["stats"]["unique_graphs"]
    compiled = dict(engine.draw(jobs))
    assert all(torch.equal(eager[number], compiled[number]) for number in eager)
    assert counters["stats"]["unique_graphs"] == before + 1


def test_ever_longer_prompts_compile_a_few_times_only(monkeypatch):
    compiled = []
    monkeypatch.setattr(compiled_pass, "LEAST_TABLED", 64)
    monkeypatch.setattr(compiled_pass, "_compile", lambda module, *_: compiled.append(1) or module)
    text = TEXT | {"model_type": "llama"}
    monkeypatch.setitem(SIZES, "small", {"text": text, "codes": (32, 4), "code_dim": 8})
    engine = DrawingEngine(make_model("small", "flat", 16), batch_size=1, compile_step=True)
    assert len(dict(engine.draw(ImageJob((5,) * n, (8,), n) for n in range(20, 200, 20)))) == 9
    assert len(compiled) == 3  # for 80, 160 and 320 places
