import pytest

THREE = """
model: {model}
data: {data}
codes: {codes}
num_steps: 4
global_batch_size: 4
learning_rate: 3.0e-3
max_seq_length: 64
log_every: 1
use_cpu: true
phases:
  align:
    out: {out}/align
    learning_rate_multipliers: {{layers: 0, embed_tokens: 0}}
  sft:
    out: {out}/sft
    learning_rate: 1.0e-3
    mixture: {{answer_weight: 2.0}}
"""


@pytest.fixture
def file(world, tmp_path):
    path = tmp_path / "mllm.yaml"
    path.write_text(
        THREE.format(model=world.start, data=world.data, codes=world.codes, out=tmp_path)
    )
    return path
