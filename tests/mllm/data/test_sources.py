from data_pipelines.records import Question
from mllm.data.sources import question_pairs


def test_the_most_frequent_answer_is_trained_on():
    questions = [Question("is it red?", ["no"] + ["yes"] * 9, "1"), Question("and now?", [], "2")]
    assert question_pairs(questions) == [("is it red?", "yes")]
