"""Changes and spikes in noisy curves: found where they are, and not where only chance is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import trends
from stages.lib.trends import change, spikes

NOISES = {
    "even": lambda draw, size: np.exp(0.2 * draw.standard_normal(size)),
    "wide": lambda draw, size: np.exp(draw.standard_normal(size)),
    "lopsided": lambda draw, size: draw.gamma(1.0, 1.0, size),
    "with outliers": lambda draw, size: np.maximum(1 + 0.15 * draw.standard_t(3, size), 0.05),
}
every_noise = pytest.mark.parametrize("noise", NOISES)


@every_noise
def test_chance_alone_is_hardly_ever_called_a_change(noise):
    draw = np.random.default_rng(1)
    found = [change(*NOISES[noise](draw, (2, 40))) for _ in range(400)]
    assert sum(one.fell or one.rose for one in found) <= 5


@every_noise
def test_a_change_is_measured_rightly_in_most_noises(noise):
    draw = np.random.default_rng(2)
    before, after = NOISES[noise](draw, 200), 0.4 * NOISES[noise](draw, 200)
    found = change(before, after)
    assert found.fell
    assert found.low < 0.4 < found.high
    assert change(after, before).rose


def test_one_outlier_moves_nothing():
    before, after = np.full(20, 2.0), np.full(20, 1.0)
    after[3] = 1e6
    assert change(before, after).ratio == pytest.approx(0.5)
    assert change(before, after).fell


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.lists(st.floats(0, 100), min_size=1, max_size=40))
def test_an_interval_holds_its_estimate_and_is_turned_over_with_the_order(before, after):
    forth, back = change(np.array(before), np.array(after)), change(np.array(after), np.array(before))
    assert forth.low <= forth.ratio <= forth.high
    assert [forth.low, forth.ratio, forth.high] == pytest.approx([1 / back.high, 1 / back.ratio, 1 / back.low])


def test_three_values_all_lower_are_a_change_and_two_of_three_are_none():
    before, after = np.full(40, 1.0), np.array([0.5, 0.5, 0.5])
    assert change(before, after).fell
    assert not change(before, np.array([0.5, 0.5, 1.5])).fell


def test_a_long_stretch_is_compared_in_bounded_memory():
    found = change(np.full(200_000, 2.0), np.full(200_000, 1.0))
    assert found.low == found.high == pytest.approx(0.5)


def curve(spiked: dict[int, float], size: int = 200, noise: float = 0.1) -> np.ndarray:
    values = np.exp(noise * np.random.default_rng(3).standard_normal(size))
    for place, height in spiked.items():
        values[place] = height
    return values


@pytest.mark.parametrize(
    ("spiked", "found"),
    [
        ({}, []),
        ({50: 3.0, 51: 5.0, 52: 3.0, 120: 4.0, 121: 2.9}, [51, 120]),
        ({50: 5.0, 120: 5.0}, []),  # one step each: hard batches
        ({50: 1.7, 51: 1.7, 120: 1.7, 121: 1.7}, []),  # less than twice
        ({2: 5.0, 3: 5.0}, []),  # at the very start, where a curve falls
        (dict.fromkeys(range(100, 200), 5.0), []),  # a step up is a rise, not a spike
        ({198: 5.0, 199: 5.0}, [198]),
    ],
)
def test_a_spike_lasts_and_comes_back(spiked, found):
    assert spikes(curve(spiked), times=2.0) == found


@every_noise
def test_noise_has_no_spikes(noise):
    draw = np.random.default_rng(4)
    assert sum(len(spikes(NOISES[noise](draw, 1000), times=2.0)) for _ in range(20)) <= 1


def test_in_wide_noise_a_tall_step_is_none():
    """Twice the neighbourhood, but no more than what this curve does all the time."""
    values = curve({50: 4.0, 51: 4.0}, noise=1.0)
    assert spikes(values, times=2.0) == []


@pytest.mark.parametrize("size", [1, trends.WINDOW, 2 * trends.WINDOW - 1])
def test_a_curve_too_short_for_a_neighbourhood_has_no_spikes(size):
    assert spikes(np.full(size, 1.0), times=2.0) == []
