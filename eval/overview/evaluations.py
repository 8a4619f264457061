"""The evaluations that lie in folders, whichever they are, and the report of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.analysis.compare import scores_of
from eval.analysis.input_ablation import report_input_ablation
from eval.analysis.observation import report_observation
from eval.analysis.settings import INPUT_ABLATION
from eval.drawing.easy_vqa import report_easy_vqa
from eval.drawing.settings import EASY_VQA
from eval.reconstruction.report import report_reconstruction
from eval.reports.page import Report, score_table
from eval.vqa.report import report_questions
from eval.vqa.scorers.tasks import TASKS
from runtime.files import read_json

REPORTS = {
    "reconstruction": report_reconstruction,
    "generation": report_easy_vqa,
    "vqa": report_questions,
    "input_ablation": report_input_ablation,
    "observation": report_observation,
}
"""Kind of evaluation → its report, in the order in which a page shows them."""
KINDS = {
    "reconstruction": "reconstruction",
    f"generation, {EASY_VQA}": "generation",
    INPUT_ABLATION: "input_ablation",
    "observation": "observation",
} | dict.fromkeys(TASKS, "vqa")
"""Task of a summary → its kind."""


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation left in its folder."""

    folder: Path
    summary: dict[str, Any]

    @property
    def kind(self) -> str:
        """One of `REPORTS`; "" for any other evaluation."""
        return KINDS.get(str(self.summary.get("task")), "")

    def report(self) -> Report:
        """Its own report, or a table of its scores."""
        if self.kind:
            return REPORTS[self.kind](self.folder)
        title = str(self.summary["task"])
        return Report(title[0].upper() + title[1:], "", [score_table(scores_of(self.summary))])


def find_evaluations(folder: Path) -> list[Evaluation]:
    """The finished evaluations in a run's folder, in the order in which a page shows them."""
    found = []
    for path in sorted({*folder.glob("*/summary.json"), *folder.glob("*/*/summary.json")}):
        summary = read_json(path)
        if isinstance(summary, dict) and summary.get("task", "compare") != "compare":
            found.append(Evaluation(path.parent, summary))
    return sorted(found, key=lambda each: [*REPORTS, ""].index(each.kind))
