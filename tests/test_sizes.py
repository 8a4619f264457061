"""Extreme shapes and sizes within 2 GB of memory: each is done, or refused in one sentence."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.every_command import LINES, make_place, words

IN_TWO_GIGABYTES = Path(__file__).with_name("in_two_gigabytes.py")
"""Run and never imported: it limits its own process."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BIG = 10**9
SHAPES = [(1, 20_000), (20_000, 1), (2_000_000, 12), (12, 2_000_000)]
DECLARED = [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)]
EDIT = "--model @model --keep-rows 1 --out @out --image"
ASK = "--model @model --question what? --max-new-tokens 2 --image"

DONE = [
    *(f"generate {EDIT} @shapes/{w}x{h}.png" for w, h in SHAPES),
    *(f"ask {ASK} @shapes/{w}x{h}.png" for w, h in SHAPES),
    "prepare folder:@shapes --out @out",
    f"prepare folder:@pictures --out @out --shard-size {BIG} --max-rejects {BIG**2}",
    "reconstruct --tokenizer @tokenizer " + " ".join(f"@shapes/{w}x{h}.png" for w, h in SHAPES)
    + " --out @out",
    f"extract-codes {LINES['extract-codes']} --batch-size {BIG}",
    f"eval reconstruction {LINES['eval reconstruction']} --max-images {BIG}",
    f"eval observation {LINES['eval observation']} --max-images {BIG}",
    f"generate {LINES['generate']} --top-k {BIG} --max-prompts {BIG}",
    f"generate {LINES['generate']} --batch-size 1024",
    f"train teacher {LINES['train teacher']} training.checkpoint_every={BIG}",
    f"train semantic {LINES['train semantic']} codebook.kmeans_images={BIG}",
    f"train semantic {LINES['train semantic']} training.micro_batch_size={BIG}",
    f"train mllm {LINES['train mllm']} lora.rank=32 log_every={BIG}",
    f"plan --config @mllm.yaml --gpus 8 --gpu-memory 80G max_seq_length={BIG} global_batch_size=8",
]  # fmt: skip
REFUSED = [
    f"prepare folder:@pictures --out @out --num-workers {BIG}",
    *(f"reconstruct --tokenizer @tokenizer @shapes/declared-{w}x{h}.png --out @out"
      for w, h in DECLARED),
    *(f"generate {EDIT} @shapes/declared-{w}x{h}.png" for w, h in DECLARED),
    *(f"ask {ASK} @shapes/declared-{w}x{h}.png" for w, h in DECLARED),
    *(f"reconstruct {LINES['reconstruct']} --resolution {n}" for n in (8000, 80_000)),
    *(f"eval reconstruction {LINES['eval reconstruction']} --resolution {n}" for n in (8000, BIG)),
    *(f"extract-codes {LINES['extract-codes']} --{name} {BIG}"
      for name in ("num-crops", "num-workers")),
    *(f"eval {name} {LINES[f'eval {name}']} --batch-size {BIG}"
      for name in ("reconstruction", "observation", "vqa", "generation", "input-ablation")),
    f"eval observation {LINES['eval observation']} --shuffles {BIG}",
    f"eval generation --model @model --out @out --seeds {BIG}",
    *(f"generate --model @model --prompt bar --out @out --{name} {BIG}"
      for name in ("num-images", "batch-size", "num-candidates")),
    f"ask {ASK} @pictures/0.png --max-new-tokens {BIG}".replace("--max-new-tokens 2", ""),
    f"ask {ASK} @pictures/0.png --batch-size {BIG}",
    *(f"init-mllm {LINES['init-mllm']} text_config.{name}={10**7}"
      for name in ("hidden_size", "num_hidden_layers")),
    f"init-mllm {LINES['init-mllm']} text_config.intermediate_size={BIG}",
    *(f"train teacher {LINES['train teacher']} {name}={BIG}"
      for name in ("vision.image_size", "vision.hidden_size", "vision.num_hidden_layers",
                   "text.max_position_embeddings", "text.hidden_size", "text.num_hidden_layers",
                   "training.global_batch_size")),
    *(f"train semantic {LINES['train semantic']} model.{name}={BIG}"
      for name in ("num_semantic_codes", "num_pixel_codes", "semantic_code_dim", "image_size",
                   "semantic_encoder_layers", "decoder_hidden_size")),
    *(f"train pixel {LINES['train pixel']} training.{name}={BIG}"
      for name in ("global_batch_size", "num_workers")),
    f"train pixel {LINES['train pixel']} loss.adversarial.discriminator=patchgan "
    f"loss.adversarial.width={BIG}",
    *(f"train mllm {LINES['train mllm']} {name}={BIG}"
      for name in ("lora.rank", "max_seq_length", "num_workers")),
    f"train mllm {LINES['train mllm']} micro_batch_size={BIG} global_batch_size={BIG}",
    f"train mllm {LINES['train mllm']} learning_rate=1e30 num_steps={BIG}",
]  # fmt: skip


def png_that_declares(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What became of each line; they are run by one process, whose imports take the longest."""
    place = make_place(tmp_path_factory.mktemp("place"))
    (place / "shapes").mkdir()
    for width, height in SHAPES:
        image = Image.new("RGB", (width, height), (200, 10, 10))
        image.save(place / "shapes" / f"{width}x{height}.png")
    for width, height in DECLARED:
        path = place / "shapes" / f"declared-{width}x{height}.png"
        path.write_bytes(png_that_declares(width, height))
    lines = DONE + REFUSED
    cases = [words(line, place, place / f"out-{n}") for n, line in enumerate(lines)]
    (place / "cases.json").write_text(json.dumps(cases))
    finished = subprocess.run(
        [sys.executable, IN_TWO_GIGABYTES, place / "cases.json"],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    found = [json.loads(line) for line in finished.stdout.splitlines()]
    assert finished.returncode == 0, (finished.returncode, lines[len(found) :][:1])
    return dict(zip(lines, found, strict=True))


@pytest.mark.parametrize("line", DONE)
def test_what_can_be_done_is_done(line, results):
    assert results[line]["code"] == 0, results[line]
    assert results[line]["megabytes"] < 2000


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_is_one_sentence(line, results):
    assert results[line]["code"] == 2, results[line]
    assert results[line]["said"].startswith("semhitok: error: ") and results[line]["seconds"] < 30
    assert results[line]["megabytes"] < 2000
