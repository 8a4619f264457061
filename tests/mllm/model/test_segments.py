import torch

from mllm.model.segments import visibility


def test_the_worked_example_of_visibility():
    documents = torch.tensor([[0, 0, 0, 0, 1, 1]])
    suffixes = torch.tensor([[0, 1, 1, 2, 0, 0]])
    assert visibility(documents, suffixes)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]
