"""All commands by name, in the order in which `semhitok --help` lists them.

The examples work after `semhitok quickstart`, but `export-llm` needs a model with a flat head
beside it, and `merge-lora` one with LoRA layers.
"""

from semhitok.command import Command

GROUPS = {
    "data": "look at prepared data",
    "train": "run one training phase, or resume it",
    "eval": "measure a saved model",
}
"""What the first word of several commands means."""
RENAMED = {"eval sensitivity": "eval input-ablation"}
"""Former names of commands, each with the present one."""

MODEL = "--model runs/quickstart/mllm/model"
TOKENIZER = "--tokenizer runs/quickstart/decoder/model"
DATA = "--data runs/quickstart/data/test"
FLAT_MODEL = "runs/flat"  # init-mllm ... image_head=flat image_positions=none out=runs/flat
LORA_MODEL = "runs/lora/model"  # train mllm ... lora.rank=16 out=runs/lora


def _train(
    phase: str, about: str, settings: str, folder: str = "quickstart", check_data: str = ""
) -> Command:
    return Command(
        f"train {phase}",
        about,
        f"--config configs/{folder}/{phase}.yaml",
        f"tokenizer.training.settings:{settings}",
        "tokenizer.training.train:train_phase",
        check_data,
        yaml=True,
    )


_ALL = (
    Command(
        "quickstart",
        "train, measure and show everything on small real data, on a CPU",
        "--out runs/quickstart",
        "semhitok.recipe_settings:QuickstartSettings",
        "semhitok.recipe:quickstart",
    ),
    Command(
        "run",
        "run the steps of a recipe, from raw data to a report",
        "configs/recipes/quickstart.yaml --out runs/quickstart",
        "semhitok.recipe_settings:RunSettings",
        "semhitok.recipe:run",
    ),
    Command(
        "ablate",
        "train and measure variants of the tokenizer with several seeds, for one table",
        "--config configs/ablation/quickstart.yaml",
        "semhitok.ablation_settings:AblationSettings",
        "semhitok.ablate:ablate",
        yaml=True,
    ),
    Command(
        "prepare",
        "validate raw images, captions, questions, conversations and texts into shards",
        "easy-vqa-test --out runs/prepared-test",
        "data_pipelines.prepare.settings:PrepareSettings",
        "data_pipelines.prepare.run:prepare",
    ),
    Command(
        "data inspect",
        "counts, lengths, sizes, a contact sheet and rejects of prepared data, as one HTML page",
        "runs/quickstart/data/test --out runs/inspect.html",
        "eval.analysis.settings:InspectSettings",
        "eval.analysis.data_page:inspect_data",
    ),
    Command(
        "data images",
        "write images of prepared data as files again, as they were",
        f"{DATA} --out runs/images --max-images 8",
        "data_pipelines.loading.settings:ImagesSettings",
        "data_pipelines.loading.image_files:write_images",
    ),
    _train(
        "teacher",
        "train a small SigLIP on image-caption pairs",
        "TeacherPhaseSettings",
        check_data="tokenizer.training.phase_teacher:check_data",
    ),
    _train(
        "semantic", "train the semantic codebook on a teacher's features", "SemanticPhaseSettings"
    ),
    _train(
        "pixel", "train the pixel sub-codebooks on a frozen semantic half", "PixelPhaseSettings"
    ),
    _train("decoder", "train the Enhance Decoder on frozen codebooks", "DecoderPhaseSettings"),
    _train(
        "joint",
        "train both levels of codes at once, for comparison",
        "JointPhaseSettings",
        "ablation",
    ),
    Command(
        "extract-codes",
        "turn prepared images into shards of image codes",
        f"{TOKENIZER} {DATA} --out runs/codes-test",
        "tokenizer.extraction.settings:ExtractCodesSettings",
        "tokenizer.extraction.extract:extract_codes",
    ),
    Command(
        "reconstruct",
        "encode images and decode them again",
        f"{TOKENIZER} runs/quickstart/images/test-0.png --out runs/reconstructed",
        "tokenizer.extraction.settings:ReconstructSettings",
        "tokenizer.extraction.reconstruct:reconstruct",
    ),
    Command(
        "describe",
        "print the sizes of an image tokenizer: parameters by part, codes, tokens",
        f"{TOKENIZER}",
        "tokenizer.training.settings:DescribeSettings",
        "tokenizer.training.describe:describe",
    ),
    Command(
        "export-tokenizer",
        "write the encoder half or the decoder half of an image tokenizer alone",
        f"{TOKENIZER} --half encoder --out runs/encoder",
        "tokenizer.saved.settings:ExportTokenizerSettings",
        "tokenizer.saved.halves:export_tokenizer",
    ),
    Command(
        "init-mllm",
        "make the untrained language model with its image vocabulary",
        "--config configs/quickstart/init_mllm.yaml",
        "mllm.init.settings:InitSettings",
        "mllm.init.build:init_mllm",
        yaml=True,
    ),
    Command(
        "plan",
        "memory, tokens and FLOPs of a training of the language model, from its config alone",
        "--config configs/quickstart/mllm.yaml --gpus 2 --gpu-memory 80G",
        "mllm.planning.settings:PlanSettings",
        "mllm.planning.command:plan",
    ),
    Command(
        "train mllm",
        "train the language model on questions and drawing",
        "--config configs/quickstart/mllm.yaml",
        "mllm.phase.settings:PhaseSettings",
        "mllm.training.train:train_mllm",
        "mllm.training.train:check_data",
        yaml=True,
    ),
    Command(
        "export-llm",
        "write a model with a flat head as a plain causal LM, for servers such as vLLM",
        f"--model {FLAT_MODEL} --out runs/exported",
        "mllm.saved.settings:ExportSettings",
        "mllm.saved.export:export_llm",
    ),
    Command(
        "merge-lora",
        "fold the LoRA layers of a trained model into its plain matrices",
        f"--model {LORA_MODEL} --out runs/merged",
        "mllm.saved.settings:MergeSettings",
        "mllm.saved.export:merge_lora",
    ),
    Command(
        "generate",
        "draw images from prompts",
        f'{MODEL} --prompt "a teal triangle" --num-images 4 --out runs/drawn',
        "mllm.serving.settings:GenerateSettings",
        "mllm.serving.generate:generate",
    ),
    Command(
        "ask",
        "answer questions about images",
        f'{MODEL} --image runs/quickstart/images/test-0.png --question "what is the red shape?"',
        "mllm.serving.settings:AskSettings",
        "mllm.serving.ask:ask",
    ),
    Command(
        "chat",
        "talk about images in the terminal, and draw some",
        f"{MODEL} --no-history",
        "mllm.serving.settings:ChatSettings",
        "mllm.serving.chat:chat",
    ),
    Command(
        "serve",
        "draw, ask, vary and look at codes on a page in the browser",
        f"{MODEL}",
        "mllm.serving.settings:ServeSettings",
        "mllm.serving.server:serve",
    ),
    Command(
        "eval reconstruction",
        "scores of images and sets, and codebook usage, of an image tokenizer",
        f"{TOKENIZER} {DATA} --out runs/eval-reconstruction",
        "eval.reconstruction.settings:ReconstructionSettings",
        "eval.reconstruction.task:evaluate",
    ),
    Command(
        "eval observation",
        "how much patches vary that share a semantic code, against all patches and shuffled codes",
        f"{TOKENIZER} {DATA} --out runs/observation",
        "eval.analysis.settings:ObservationSettings",
        "eval.analysis.observation:evaluate",
    ),
    Command(
        "eval vqa",
        "accuracy of answers to visual questions",
        f"{MODEL} {DATA} --out runs/eval-vqa",
        "eval.vqa.settings:VQASettings",
        "eval.vqa.task:evaluate",
        "eval.vqa.task:check_data",
    ),
    Command(
        "eval generation",
        "how many drawings show what their prompt asked for",
        f"{MODEL} --seeds 4 --out runs/eval-generation",
        "eval.drawing.settings:GenerationSettings",
        "eval.drawing.task:evaluate",
    ),
    Command(
        "eval input-ablation",
        "every score again with images shuffled, blank, or half their codes from another image",
        f"{MODEL} {DATA} --out runs/input-ablation --max-images 40",
        "eval.analysis.settings:InputAblationSettings",
        "eval.analysis.input_ablation:evaluate",
        "eval.vqa.task:check_data",
    ),
    Command(
        "eval all",
        "reconstruction, questions, drawings and the input ablation, on one page",
        f"{MODEL} {DATA} --out runs/eval-all",
        "eval.overview.settings:RunAllSettings",
        "eval.overview.run_all:evaluate",
    ),
    Command(
        "eval compare",
        "results side by side with intervals, where they were measured alike",
        "runs/quickstart/eval/reconstruction runs/quickstart/eval/reconstruction "
        "--out runs/compare",
        "eval.analysis.settings:CompareSettings",
        "eval.analysis.compare:compare",
    ),
)
COMMANDS = {command.name: command for command in _ALL}
