import itertools

import pytest
from torch.utils.data import DataLoader

from data_pipelines.loading.batches import StepBatches


@pytest.mark.parametrize(("num_records", "batch_size"), [(10, 4), (7, 3), (3, 8), (5, 5), (1, 2)])
def test_each_record_comes_exactly_once_an_epoch(num_records, batch_size):
    batches = StepBatches(num_records, batch_size, seed=1)
    row = list(itertools.chain.from_iterable(batches.indices(t) for t in range(num_records)))
    for start in range(0, len(row), num_records):  # num_records steps are batch_size epochs
        assert sorted(row[start : start + num_records]) == list(range(num_records))


def test_a_step_does_not_depend_on_the_steps_before():
    undisturbed = StepBatches(100, 8, seed=3)
    expected = [undisturbed.indices(step) for step in range(40)]
    assert [StepBatches(100, 8, seed=3).indices(step) for step in range(40)] == expected
    assert [undisturbed.indices(step) for step in reversed(range(40))] == expected[::-1]
    assert list(StepBatches(100, 8, seed=3, start_step=17, num_steps=40)) == expected[17:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_together_make_the_same_global_batch(world_size):
    alone = StepBatches(50, 8, seed=5)
    ranks = [StepBatches(50, 8, seed=5, rank=r, world_size=world_size) for r in range(world_size)]
    for step in range(20):
        parts = [rank.indices(step) for rank in ranks]
        assert all(len(part) == 8 // world_size for part in parts)
        assert list(itertools.chain.from_iterable(parts)) == alone.indices(step)


def test_epochs_and_seeds_differ():
    batches = StepBatches(50, 50, seed=0)
    assert batches.indices(0) != batches.indices(1)
    assert batches.indices(0) != StepBatches(50, 50, seed=1).indices(0)


def test_a_data_loader_takes_it_from_any_step():
    batches = StepBatches(20, 4, seed=0, start_step=3, num_steps=9)
    loader = DataLoader(list(range(20)), batch_sampler=batches)
    assert len(loader) == 6
    assert [batch.tolist() for batch in loader] == [batches.indices(step) for step in range(3, 9)]


def test_numbers_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="10 does not divide over 4"):
        StepBatches(100, 10, seed=0, world_size=4)
    with pytest.raises(ValueError, match=r"rank 2 .* world of 2"):
        StepBatches(100, 10, seed=0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="0 records"):
        StepBatches(0, 10, seed=0)
    with pytest.raises(ValueError, match="step 9 to step 3"):
        StepBatches(10, 2, seed=0, start_step=9, num_steps=3)
