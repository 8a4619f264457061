"""The commands of `semhitok eval`."""

from semhitok.command import Command

MODEL = "runs/quickstart/mllm/model"
TOKENIZER = "runs/quickstart/decoder/model"
TEST_DATA = "runs/quickstart/data/test"

COMMANDS = (
    Command(
        "eval reconstruction",
        "scores of images and sets, and codebook usage, of an image tokenizer",
        f"semhitok eval reconstruction --tokenizer {TOKENIZER} --data {TEST_DATA} "
        "--out runs/eval-reconstruction",
        "eval.reconstruction.settings:ReconstructionSettings",
        "eval.reconstruction.task:evaluate",
    ),
    Command(
        "eval observation",
        "how much patches vary that share a semantic code, against all patches and shuffled codes",
        f"semhitok eval observation --tokenizer {TOKENIZER} --data {TEST_DATA} "
        "--out runs/observation",
        "eval.analysis.settings:ObservationSettings",
        "eval.analysis.observation:evaluate",
    ),
    Command(
        "eval vqa",
        "accuracy of answers to visual questions",
        f"semhitok eval vqa --model {MODEL} --data {TEST_DATA} --out runs/eval-vqa",
        "eval.vqa.settings:VQASettings",
        "eval.vqa.task:evaluate",
    ),
    Command(
        "eval generation",
        "how many drawings show what their prompt asked for",
        f"semhitok eval generation --model {MODEL} --seeds 4 --out runs/eval-generation",
        "eval.drawing.settings:GenerationSettings",
        "eval.drawing.task:evaluate",
    ),
    Command(
        "eval input-ablation",
        "every score again with images shuffled, blank, or half their codes from another image",
        f"semhitok eval input-ablation --model {MODEL} --data {TEST_DATA} "
        "--out runs/input-ablation --max-images 40",
        "eval.analysis.settings:InputAblationSettings",
        "eval.analysis.input_ablation:evaluate",
    ),
    Command(
        "eval all",
        "reconstruction, questions, drawings and the input ablation, on one page",
        f"semhitok eval all --model {MODEL} --data {TEST_DATA} --out runs/eval-all",
        "eval.overview.settings:RunAllSettings",
        "eval.overview.run_all:evaluate",
    ),
    Command(
        "eval compare",
        "results side by side with intervals, where they were measured alike",
        "semhitok eval compare runs/quickstart/eval/reconstruction "
        "runs/quickstart/eval/reconstruction --out runs/compare",
        "eval.analysis.settings:CompareSettings",
        "eval.analysis.compare:compare",
    ),
)
