"""Questions of a folder that `semhitok prepare` wrote."""

from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.loading.dataset import PreparedDataset
from eval.vqa.benchmarks.question_set import QuestionSet
from eval.vqa.scorers.easy_vqa import question_type
from eval.vqa.scorers.task import BenchmarkQuestion


def read_prepared(path: Path) -> QuestionSet:
    """All questions of a prepared data set; the category is the form and topic of easy-VQA.

    Raises:
        UserError: if the folder holds no prepared data.
    """
    data = PreparedDataset(path, images_only=True)
    questions = []
    for index, record in enumerate(data.texts()):
        for q in record.questions:
            questions.append(
                BenchmarkQuestion(
                    question_id=q.question_id,
                    question=q.question,
                    answers=tuple(q.answers),
                    category=question_type(q.question, q.answers) if q.answers else "",
                    image_id=record.record_id,
                    images=(partial(_image, data, index),),
                )
            )
    return QuestionSet(str(path), questions, data_fingerprint=data.fingerprint)


def _image(data: Any, index: int) -> bytes:
    image: bytes = data[index].image
    return image
