"""The world of `tiny.py`, built once a session."""

import pytest

from mllm.saved.load import load_processor
from tests.mllm.tiny import World, make_model


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
