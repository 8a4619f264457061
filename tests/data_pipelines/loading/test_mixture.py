import itertools
import json
from collections import Counter

import numpy as np
import pytest

from data_pipelines.loading.mixture import Mixture, MixtureSource, shuffled
from runtime.errors import UserError


def take(mixture: Mixture, count: int) -> list:
    return list(itertools.islice(mixture, count))


def test_each_record_comes_once_an_epoch_of_its_source():
    sources = [MixtureSource("a", 10, 2.0), MixtureSource("b", 7, 1.0)]
    draws = take(Mixture(sources, seed=3), 90)
    for number, source in enumerate(sources):
        mine = [draw for draw in draws if draw.source == number]
        assert [draw.epoch for draw in mine] == [
            position // source.num_records for position in range(len(mine))
        ]
        orders = [
            [draw.index for draw in mine if draw.epoch == epoch] for epoch in range(len(mine) // 10)
        ]
        assert all(sorted(order) == list(range(source.num_records)) for order in orders)
        assert orders[0] != orders[1]


def test_shares_of_records_are_as_configured_over_100k_draws():
    sources = [
        MixtureSource("a", 5000, 0.5), MixtureSource("b", 300, 0.3), MixtureSource("c", 41, 0.2),
    ]  # fmt: skip
    mixture = Mixture(sources)
    counts = Counter(draw.source for draw in take(mixture, 100_000))
    for number, source in enumerate(sources):
        assert abs(counts[number] / 100_000 - source.weight) < 0.01 * source.weight
        assert mixture.shares()[source.name] == counts[number] / 100_000


def test_shares_of_tokens_are_as_configured_over_100k_draws():
    draw = np.random.default_rng(0)
    lengths = [draw.integers(1, top, 500) for top in (10, 2000, 300)]
    sources = [
        MixtureSource(name, 500, weight, lengths=each)
        for name, weight, each in zip("abc", (3.0, 1.0, 6.0), lengths, strict=True)
    ]
    tokens: Counter[int] = Counter()
    for drawn in take(Mixture(sources, by="tokens"), 100_000):
        tokens[drawn.source] += int(lengths[drawn.source][drawn.index])
    for number, source in enumerate(sources):
        share = tokens[number] / tokens.total()
        assert abs(share - source.weight / 10) < 0.01 * source.weight / 10


def test_a_source_that_has_had_its_epochs_leaves_its_part_to_the_others():
    sources = [MixtureSource("a", 10, epochs=2), MixtureSource("b", 10), MixtureSource("c", 10)]
    draws = take(Mixture(sources), 300)
    counts = Counter(draw.source for draw in draws)
    assert counts[0] == 20 and counts[1] == counts[2] == 140
    finite = Mixture([MixtureSource("a", 10, epochs=2), MixtureSource("b", 3, epochs=1)])
    assert Counter(draw.source for draw in finite) == {0: 20, 1: 3}


def test_a_state_goes_on_where_it_was_and_is_plain_json():
    sources = [MixtureSource("a", 10, 2.0), MixtureSource("b", 7), MixtureSource("c", 3, epochs=2)]
    whole = take(Mixture(sources, seed=1), 200)
    for stop in (0, 1, 17, 100, 199):
        first, second = Mixture(sources, seed=1), Mixture(sources, seed=1)
        assert take(first, stop) == whole[:stop]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert take(second, 200 - stop) == whole[stop:]


def test_the_seed_and_the_name_decide_a_sources_order_and_nothing_else_does():
    def order(sources: list[MixtureSource], seed: int, number: int = 0) -> list[int]:
        drawn = take(Mixture(sources, seed), 100)
        return [draw.index for draw in drawn if draw.source == number][:20]

    a, b, c = (MixtureSource(name, 20) for name in "abc")
    assert order([a, b], 0) == order([a, c], 0) == order([c, b, a], 0, 2)
    assert order([a, b], 0) != order([a, b], 1)
    assert order([a, b], 0) != order([a, b], 0, 1)


@pytest.mark.parametrize("buffer", [None, 1, 7, 64, 1000, 5000])
def test_a_shuffled_order_has_every_record_once(buffer):
    order = shuffled(1003, np.random.default_rng(0), buffer)
    assert sorted(order.tolist()) == list(range(1003))


def test_a_shuffle_buffer_reads_neighbours_together_and_still_mixes():
    order = shuffled(100_000, np.random.default_rng(0), buffer=1024)
    windows = order[: 1024 * 90].reshape(90, 1024)
    touched = [len(np.unique(window // 64)) for window in windows]
    assert max(touched) <= 18  # blocks of 64; a full shuffle touches nearly 750
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.02


@pytest.mark.parametrize(
    ("sources", "settings", "complaint"),
    [
        ([], {}, "at least one source"),
        ([("a", 1), ("a", 1)], {}, "two sources of the mixture are called 'a'"),
        ([("a", 1, 0.0)], {}, "the weight of 'a' is 0.0: give a number above 0"),
        ([("a", 1, -1.0)], {}, "the weight of 'a' is -1.0"),
        ([("a", 1, float("nan"))], {}, "the weight of 'a' is nan"),
        ([("a", 0)], {}, "'a' holds no record"),
        ([("a", 1, 1.0, 0)], {}, "'a' is read for 0 epochs"),
        ([("a", 1)], {"by": "tokens"}, "shares of tokens need the lengths of 'a'"),
        ([("a", 2, 1.0, None, [1])], {"by": "tokens"}, "a length of at least 1 token for each"),
        ([("a", 1)], {"by": "bytes"}, "of records or tokens, not of 'bytes'"),
        ([("a", 1)], {"buffer": 0}, "at least 1 record, not 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_told_in_one_sentence(sources, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        Mixture([MixtureSource(*each) for each in sources], **settings)


def test_a_state_of_another_stream_is_refused():
    state = Mixture([MixtureSource("a", 10)], seed=1).state_dict()
    with pytest.raises(UserError, match="of seed 1, not 2: set seed as it was"):
        Mixture([MixtureSource("a", 10)], seed=2).load_state_dict(state)
    with pytest.raises(UserError, match=r"sources a \(10 records, weight 1\), not a \(11 records"):
        Mixture([MixtureSource("a", 11)], seed=1).load_state_dict(state)
    with pytest.raises(UserError, match=r"not a \(10 records, weight 2\)"):
        Mixture([MixtureSource("a", 10, 2.0)], seed=1).load_state_dict(state)
