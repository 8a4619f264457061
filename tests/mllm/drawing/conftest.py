"""A model of the quickstart's size."""

import pytest

from benchmarks.generate_model import make_model


@pytest.fixture(scope="session", params=["hierarchical", "flat"])
def small(request):
    """Large enough that matrix libraries change kernels with the batch; N is 16."""
    return make_model("quickstart", request.param, 16)
