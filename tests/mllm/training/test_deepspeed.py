"""Two processes against one, one against two; each launch trains several runs one after another."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from mllm.model.lora import merge
from mllm.phase.settings import LearningRateMultipliers, LoRASettings
from mllm.saved.load import load_model, load_processor
from mllm.training.train import train_mllm
from tests import processes
from tests.mllm.tiny import REPOSITORY, launch, losses_of, make_model, write_phase
from tests.mllm.zero_runs import TOKEN_IDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NUM_STEPS, CHECKPOINT = 12, 6
# Losses go from 44.5 to 31; measured: 3.8e-6, which is the last bit of a float32 of that size.
TOLERANCE = 2e-5
CONFIGS = REPOSITORY / "configs" / "deepspeed"
LORA = {"lora": LoRASettings(rank=2, alpha=4.0)}
TINY_CHUNK = 700  # scores: two labels at a time over the text rows, 46 over the flat head's


def settings_of(kind):
    """Settings of a run by its short name, such as "zero3 lora"."""
    stage, *rest = kind.split()
    settings = {} if stage == "ddp" else {"deepspeed": CONFIGS / f"{stage}.json"}
    if "lora" in rest:
        settings |= LORA
    if "accumulated" in rest:
        settings["micro_batch_size"] = 2
    if "bf16" in rest:
        settings |= {"bf16": True, "samples_every": CHECKPOINT}
    return settings


@pytest.fixture(scope="module")
def starts(world, tmp_path_factory):
    """Model folders: the world's own, and one with a flat head."""
    flat = tmp_path_factory.mktemp("flat") / "start"
    make_model(world, "flat").save_pretrained(flat)
    load_processor(world.start).save_pretrained(flat)
    return {"hierarchical": world.start, "flat": flat}


@pytest.fixture(scope="module")
def single(world, starts, tmp_path_factory):
    """The same runs on one process, without DeepSpeed."""
    root = tmp_path_factory.mktemp("single")
    for name, settings in (("plain", {}), ("lora", LORA), ("flat", {})):
        model = starts["flat" if name == "flat" else "hierarchical"]
        train_mllm(phase(world, root / name, model=model, **settings))
    return root


def phase(world, out, **settings):
    return world.phase(out, num_steps=NUM_STEPS, global_batch_size=8, **settings)


def run_jobs(root, num_ranks, jobs):
    """One launch of `tests.mllm.zero_runs`."""
    path = root / f"jobs-{len(list(root.glob('jobs-*')))}.json"
    path.write_text(json.dumps(jobs))
    finished = processes.run_ranks(num_ranks, "-m", "tests.mllm.zero_runs", path)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert "ALL RUN" in finished.stdout


WHOLE = ["ddp", "zero1", "zero2", "zero3", "zero2-offload", "zero2 accumulated"]
WHOLE_LORA = ["ddp lora", "zero2 lora", "zero3 lora"]
STOPPED = ["zero1", "zero2", "zero3", "zero3 lora"]
GROWN = ["zero2", "zero3"]
BF16 = ["zero2 bf16", "zero3 bf16"]
BF16_LORA = "zero3 lora bf16"
ALIGN = {"learning_rate_multipliers": LearningRateMultipliers(layers=0, embed_tokens=0)}


@pytest.fixture(scope="module")
def on_two(world, starts, tmp_path_factory):
    """Whole runs on two ranks, and some gone on with from their checkpoint, in one launch."""
    root = tmp_path_factory.mktemp("two")

    def job(name, kind, model=world.start, settings=None, **more):
        path = root / f"{name}.yaml"
        settings = (
            settings_of(kind) | {"model": model, "checkpoint_every": CHECKPOINT} | (settings or {})
        )
        write_phase(path, phase(world, root / name, **settings))
        return {"config": str(path), **more}

    jobs = [
        job(
            f"whole {kind}",
            kind,
            keep=[str(root / f"kept {kind}"), CHECKPOINT] if kind in STOPPED + BF16 else None,
        )
        for kind in [*WHOLE, *WHOLE_LORA, *BF16, BF16_LORA]
    ]
    jobs += [
        job(f"chunked {head}", "zero3", model=starts[head], chunk=TINY_CHUNK) for head in starts
    ]
    run_jobs(root, 2, jobs)
    for kind in STOPPED + BF16:
        for name in ("resumed", "one"):
            shutil.copytree(root / f"kept {kind}", root / f"{name} {kind}")
    jobs = [job(f"resumed {kind}", kind) for kind in STOPPED + BF16]
    jobs += [job(f"further {kind}", kind, root / f"whole {kind}" / "model", ALIGN) for kind in BF16]
    run_jobs(root, 2, jobs)
    return SimpleNamespace(root=root, job=job)


@pytest.fixture(scope="module")
def on_one(on_two):
    """Runs of two ranks gone on with on one, and others that begin on one."""
    root = on_two.root
    jobs = [on_two.job(f"one {kind}", kind) for kind in STOPPED]
    jobs += [
        on_two.job(f"alone {kind}", kind, keep=[str(root / f"grown {kind}"), CHECKPOINT])
        for kind in GROWN
    ]
    run_jobs(root, 1, jobs)
    return on_two


@pytest.fixture(scope="module")
def grown(on_one):
    """Runs of one rank gone on with on two."""
    run_jobs(on_one.root, 2, [on_one.job(f"grown {kind}", kind) for kind in GROWN])
    return on_one.root


def assert_same_run(run, reference, tolerance=TOLERANCE):
    losses = losses_of(reference)
    assert len(losses) == NUM_STEPS and losses[-1] < 0.9 * losses[0]
    assert losses_of(run) == pytest.approx(losses, abs=tolerance)
    # Loaded, since DeepSpeed writes tied weights twice; a missing weight would be an error.
    first, second = (load_model(folder / "model").state_dict() for folder in (run, reference))
    assert first.keys() == second.keys()
    for name in first:
        if name.startswith("image_tokenizer."):
            assert torch.equal(first[name], second[name]), name
        else:
            # AdamW turns the last bit of a near-zero gradient into a step of another size.
            torch.testing.assert_close(first[name], second[name], atol=1e-3, rtol=0, msg=name)


@pytest.mark.parametrize("kind", WHOLE)
def test_every_stage_on_two_ranks_is_the_run_on_one(on_two, single, kind):
    assert_same_run(on_two.root / f"whole {kind}", single / "plain")


@pytest.mark.parametrize("kind", WHOLE_LORA)
def test_lora_on_two_ranks_is_the_run_on_one(on_two, single, kind):
    assert_same_run(on_two.root / f"whole {kind}", single / "lora")
    model = load_model(on_two.root / f"whole {kind}" / "model").eval()
    logits = model(TOKEN_IDS).logits
    merge(model)
    torch.testing.assert_close(model(TOKEN_IDS).logits, logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["hierarchical", "flat"])
def test_a_chunked_loss_is_right_where_zero_3_has_cut_up_the_head(on_two, single, head):
    reference = single / ("flat" if head == "flat" else "plain")
    assert_same_run(on_two.root / f"chunked {head}", reference)


@pytest.mark.parametrize("kind", WHOLE + WHOLE_LORA)
def test_a_saved_model_has_the_logits_of_the_trained_one(on_two, kind):
    run = on_two.root / f"whole {kind}"
    with torch.no_grad():
        logits = load_model(run / "model").eval()(TOKEN_IDS).logits
    assert logits.std() > 0.01
    assert torch.equal(logits, torch.load(run / "logits.pt", weights_only=True))


@pytest.mark.parametrize("kind", BF16)
def test_bfloat16_rounds_nothing_that_is_saved(world, on_two, single, kind):
    run = on_two.root / f"whole {kind}"
    # Measured: 4e-4.
    assert losses_of(run) == pytest.approx(losses_of(single / "plain"), rel=3e-3)

    start, saved = (load_model(f).state_dict() for f in (world.start, run / "model"))
    assert start.keys() == saved.keys()
    for name, value in saved.items():
        assert value.dtype == start[name].dtype
        if name.startswith("image_tokenizer."):
            assert torch.equal(value, start[name]), name
        elif value.ndim > 1:
            assert not torch.equal(value, value.bfloat16().float()), name
    # Codes are still those of the tokenizer inside, and what align freezes is as it was.
    further = load_model(on_two.root / f"further {kind}" / "model").state_dict()
    for name, value in further.items():
        new = name.startswith(("adapter.", "image_head."))
        assert torch.equal(value, saved[name]) != new, name
    assert {path.name for path in (run / "samples").iterdir()} == {
        "000006.json", "000006.png", "000012.json", "000012.png",
    }  # fmt: skip


def test_lora_in_bfloat16_under_zero_3_leaves_its_base_exact(world, on_two, single):
    run = on_two.root / f"whole {BF16_LORA}"
    assert losses_of(run) == pytest.approx(losses_of(single / "lora"), rel=0.01)
    start, saved = (load_model(f).state_dict() for f in (world.start, run / "model"))
    for name, value in saved.items():
        if "lora_" in name or name.startswith("new_rows."):
            continue
        new = name.startswith(("adapter.", "image_head."))
        assert torch.equal(value, start[name.replace(".base_layer", "")]) != new, name
    assert all(value.any() for name, value in saved.items() if "lora_B" in name)


@pytest.mark.parametrize("kind", STOPPED + BF16)
def test_a_stopped_run_gone_on_with_is_the_uninterrupted_one(on_two, kind):
    resumed, whole = (on_two.root / f"{state} {kind}" for state in ("resumed", "whole"))
    assert losses_of(resumed) == losses_of(whole)
    first, second = (load_model(run / "model").state_dict() for run in (resumed, whole))
    assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize("kind", STOPPED)
def test_two_ranks_become_one(on_one, single, kind):
    assert_same_run(on_one.root / f"one {kind}", single / ("lora" if "lora" in kind else "plain"))


@pytest.mark.parametrize("kind", GROWN)
def test_one_rank_becomes_two(grown, single, kind):
    assert_same_run(grown / f"grown {kind}", single / "plain")


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate", "deepspeed"])
def test_every_launcher_starts_the_same_run(world, single, tmp_path, launcher):
    out = tmp_path / "run"
    config = write_phase(tmp_path / "mllm.yaml", phase(world, out))
    command = ("train", "mllm", "--config", str(config), f"deepspeed={CONFIGS / 'zero2.json'}")
    finished = launch(2, *command, launcher=launcher)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count(f"wrote {out / 'model'}") == 1
    assert "FutureWarning" not in finished.stderr
    assert_same_run(out, single / "plain")
