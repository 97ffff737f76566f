"""Ticks and places of labels."""

import itertools
import random

import pytest

from hn.report.axes import linear_axis, log_axis, overlap, place_labels


def test_a_linear_axis_has_room_and_round_ticks():
    axis = linear_axis([0.5, 0.7], count=4, margin=0.1)
    assert (axis.low, axis.high) == pytest.approx((0.48, 0.72))
    assert axis.ticks == pytest.approx((0.5, 0.6, 0.7))
    assert axis.tick_labels == ["0.5", "0.6", "0.7"]
    assert axis(0.6) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[0.0], [3.0], [-2.0, -2.0], [1e-6, 2e-6], [-1.0, 1e6]])
def test_any_values_have_an_axis(values):
    axis = linear_axis(values)
    assert all(0 <= axis(value) <= 1 for value in (*values, *axis.ticks))
    assert 1 <= len(axis.ticks) <= 12
    assert len(set(axis.tick_labels)) == len(axis.ticks)


def test_ends_that_are_included_have_no_margin():
    axis = linear_axis([0.2, 0.9], include=(0.0, 1.0))
    assert (axis.low, axis.high) == (0.0, 1.0)
    assert axis.tick_labels[0] == "0.0" and axis.tick_labels[-1] == "1.0"


def test_quarters_have_the_digits_they_need():
    assert linear_axis([0.0, 0.1], count=4, margin=0.0).tick_labels == ["0.000", "0.025", "0.050", "0.075", "0.100"]


def test_zero_has_no_sign():
    assert "0.0" in linear_axis([-0.3, 0.1], count=4).tick_labels


def test_a_logarithmic_axis_has_decades():
    axis = log_axis([0.01, 1.0], margin=0.0)
    assert axis(0.1) == pytest.approx(0.5)
    assert axis.tick_labels == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]
    assert log_axis([1e-3, 1e3]).tick_labels[:3] == ["0.001", "0.01", "0.1"]
    assert 0 < log_axis([0.3])(0.3) < 1


def test_a_narrow_logarithmic_axis_has_round_ticks():
    axis = log_axis([0.0056, 0.0088])
    assert axis.tick_labels == ["0.006", "0.007", "0.008", "0.009"]
    assert all(0 <= axis(tick) <= 1 for tick in axis.ticks)


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_a_crowd_do_not_overlap(seed):
    rng = random.Random(seed)
    points = [(rng.uniform(300, 450), rng.uniform(150, 300)) for _ in range(14)]
    sizes = [(rng.uniform(40, 140), 15.0) for _ in points]
    boxes = place_labels(points, sizes, (0, 0, 900, 450))
    assert all(overlap(a, b) == 0 for a, b in itertools.combinations(boxes, 2))
    for box, size in zip(boxes, sizes, strict=True):
        assert (box[2] - box[0], box[3] - box[1]) == pytest.approx(size)
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= 900 and box[3] <= 450
        assert all(not (box[0] < x < box[2] and box[1] < y < box[3]) for x, y in points)


def test_a_label_at_the_edge_goes_to_the_other_side():
    ((left, _, right, _),) = place_labels([(95.0, 50.0)], [(40.0, 10.0)], (0, 0, 100, 100))
    assert right <= 95 and left >= 0


def test_overlap_is_an_area():
    assert overlap((0, 0, 2, 2), (1, 1, 4, 4)) == 1
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0
