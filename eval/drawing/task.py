"""`semhitok eval generation`: easy-VQA's prompts with a rule of their own, or a benchmark."""

from pathlib import Path

from eval.drawing.benchmark import evaluate_benchmark
from eval.drawing.easy_vqa import evaluate_easy_vqa
from eval.drawing.settings import EASY_VQA, GenerationSettings


def evaluate(settings: GenerationSettings) -> Path:
    """Draw what is missing, score what is asked for, save and report.

    Returns:
        The folder that was written.

    Raises:
        UserError: as the two evaluations.
    """
    if settings.task == EASY_VQA:
        return evaluate_easy_vqa(settings)
    return evaluate_benchmark(settings)
