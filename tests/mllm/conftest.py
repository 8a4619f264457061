"""The world of `tiny.py`, built once a session."""

import pytest

from mllm.data.documents import drawing_document, question_document
from mllm.saved.load import load_processor
from tests.mllm.tiny import QUESTIONS, World, make_model


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def processor(world):
    return load_processor(world.start)


@pytest.fixture(scope="session")
def chat(processor):
    return processor.chat


@pytest.fixture(scope="session")
def hierarchical_model(world):
    return make_model(world)


@pytest.fixture(scope="session")
def flat_model(world):
    return make_model(world, "flat")


@pytest.fixture(scope="session")
def grid_model(world):
    return make_model(world, image_positions="grid")


@pytest.fixture(params=["hierarchical", "flat", "grid"])
def model(request):
    """Each image head in turn, and image tokens with places; tests must not change it."""
    return request.getfixturevalue(f"{request.param}_model")


@pytest.fixture
def documents(chat, hierarchical_model):
    offset = hierarchical_model.vocabulary.offset
    codes = [[offset + 3 * i + j for j in range(4)] for i in range(3)]
    return [
        question_document(chat, codes[0], QUESTIONS),
        drawing_document(chat, "a red bar", codes[1]),
        question_document(chat, codes[2], QUESTIONS[:2]),
    ]
