"""Commands that make, size, train, convert and use the language model.

The examples work after `semhitok quickstart`, but `export-llm` needs a model with a flat head
beside it, and `merge-lora` one with LoRA layers.
"""

from semhitok.command import Command

FLAT_MODEL = "runs/flat"  # init-mllm ... image_head=flat image_positions=none out=runs/flat
LORA_MODEL = "runs/lora/model"  # train mllm ... lora.rank=16 out=runs/lora
_MODEL = "runs/quickstart/mllm/model"

COMMANDS = (
    Command(
        "init-mllm",
        "make the untrained language model with its image vocabulary",
        "semhitok init-mllm --config configs/quickstart/init_mllm.yaml",
        "mllm.init.settings:InitSettings",
        "mllm.init.build:init_mllm",
        yaml=True,
    ),
    Command(
        "plan",
        "memory, tokens and FLOPs of a training of the language model, from its config alone",
        "semhitok plan --config configs/quickstart/mllm.yaml --gpus 2 --gpu-memory 80G",
        "mllm.planning.settings:PlanSettings",
        "mllm.planning.command:plan",
    ),
    Command(
        "train mllm",
        "train the language model on questions and drawing",
        "semhitok train mllm --config configs/quickstart/mllm.yaml",
        "mllm.phase.settings:PhaseSettings",
        "mllm.training.train:train_mllm",
        yaml=True,
    ),
    Command(
        "export-llm",
        "write a model with a flat head as a plain causal LM, for servers such as vLLM",
        f"semhitok export-llm --model {FLAT_MODEL} --out runs/exported",
        "mllm.saved.settings:ExportSettings",
        "mllm.saved.export:export_llm",
    ),
    Command(
        "merge-lora",
        "fold the LoRA layers of a trained model into its plain matrices",
        f"semhitok merge-lora --model {LORA_MODEL} --out runs/merged",
        "mllm.saved.settings:MergeSettings",
        "mllm.saved.export:merge_lora",
    ),
    Command(
        name="generate",
        about="draw images from prompts",
        example=f'semhitok generate --model {_MODEL} --prompt "a teal triangle" --num-images 4 '
        "--out runs/drawn",
        settings="mllm.serving.settings:GenerateSettings",
        function="mllm.serving.generate:generate",
    ),
    Command(
        name="ask",
        about="answer questions about images",
        example=f"semhitok ask --model {_MODEL} --image runs/quickstart/images/test-0.png "
        '--question "what is the red shape?"',
        settings="mllm.serving.settings:AskSettings",
        function="mllm.serving.ask:ask",
    ),
    Command(
        name="chat",
        about="talk about images in the terminal, and draw some",
        example=f"semhitok chat --model {_MODEL} --no-history",
        settings="mllm.serving.settings:ChatSettings",
        function="mllm.serving.chat:chat",
    ),
    Command(
        name="serve",
        about="draw, ask, vary and look at codes on a page in the browser",
        example=f"semhitok serve --model {_MODEL}",
        settings="mllm.serving.settings:ServeSettings",
        function="mllm.serving.server:serve",
    ),
)
