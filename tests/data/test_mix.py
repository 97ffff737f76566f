from collections import Counter

import pytest
import torch

from hn.data.mix import Part, epoch_rows


def test_rows_that_are_seen_once_are_in_their_order():
    parts = [Part(0, 4), Part(4, 7)]
    for epoch in (0, 5):
        assert torch.equal(epoch_rows(parts, seed=3, epoch=epoch), torch.arange(7))
    assert sum(part.length for part in parts) == 7


def test_whole_weights_repeat():
    assert Counter(epoch_rows([Part(2, 5, 3.0)], 0, 1).tolist()) == {2: 3, 3: 3, 4: 3}


@pytest.mark.parametrize("weight", [0.5, 0.3, 0.01, 1.25, 2.9, 7 / 11])
@pytest.mark.parametrize("size", [1, 2, 11, 40])
def test_every_row_comes_equally_often(weight, size):
    part, epochs = Part(3, 3 + size, weight), 37
    counts = Counter(dict.fromkeys(range(3, 3 + size), 0))
    for epoch in range(epochs):
        rows = part.rows(0, epoch)
        assert rows.dtype == torch.int64
        assert len(rows) == part.length == max(1, int(weight) * size + round(weight % 1 * size))
        assert max(Counter(rows.tolist()).values()) <= int(weight) + 1
        counts.update(rows.tolist())
    assert set(counts) == set(range(3, 3 + size))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_halves_alternate_and_the_seed_decides_which():
    part = Part(0, 20, 0.5)
    first, second = (set(part.rows(0, epoch).tolist()) for epoch in (0, 1))
    assert first | second == set(range(20)) and not first & second
    assert first != set(range(10))
    assert set(part.rows(0, 2).tolist()) == first
    assert set(part.rows(1, 0).tolist()) != first
    assert torch.equal(part.rows(0, 1), part.rows(0, 1))
