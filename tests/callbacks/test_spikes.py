"""What counts as a spike, and what does not."""

import math
import random
import statistics

import pytest

from callbacks.spikes import FEWEST, Spikes


def losses(count: int, noise: float = 0.02, seed: int = 0) -> list[float]:
    """A loss that falls from 9 to 3, with the noise of batches."""
    draw = random.Random(seed)
    return [(3 + 6 * math.exp(-step / 200)) * math.exp(draw.gauss(0, noise)) for step in range(count)]


def largest(values: list[float], least: float = 0.02) -> float:
    spikes, far = Spikes(128, least), 0.0
    for value in values:
        far = max(far, spikes.distance(value))
        spikes.add(value)
    return far


def filled(*values: float, window: int = 128, least: float = 0.02) -> Spikes:
    spikes = Spikes(window, least)
    for value in values:
        spikes.add(value)
    return spikes


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_goes_well_has_no_spike(seed: int):
    assert largest(losses(3000, seed=seed)) < 6
    heavy = random.Random(seed)
    assert largest([heavy.lognormvariate(0, 0.3) for _ in range(3000)], least=0.1) < 8


def test_a_spike_is_far_and_hides_no_other_one():
    spikes = filled(*losses(2000))
    before = spikes.distance(8.0)
    assert before > 20
    for _ in range(20):
        spikes.add(50.0)
    assert spikes.distance(8.0) > 0.6 * before
    assert spikes.distance(1.0) == 0.0


def test_the_distance_is_that_of_the_two_medians():
    values = losses(100)
    logs = [math.log(value) for value in values]
    middle = statistics.median(logs)
    deviation = 1.4826 * statistics.median([abs(one - middle) for one in logs])
    spikes = filled(*values, least=1e-9)
    assert spikes.distance(20.0) == pytest.approx((math.log(20) - middle) / deviation)
    assert spikes.distance(20.0, threshold=8) == spikes.distance(20.0)


def test_the_last_digits_of_a_still_measure_are_no_news():
    assert filled(*[2.0, 2.0 + 1e-7] * 50).distance(2.0001) < 0.1
    assert filled(*[2.0] * 100).distance(2.5) == pytest.approx(math.log(1.25) / math.log(1.02))


def test_nothing_is_far_before_enough_is_known():
    assert filled(*losses(FEWEST - 1)).distance(1e6) == 0.0
    assert filled(*losses(FEWEST)).distance(1e6) > 0.0
    assert filled(3.0, 3.1, 3.0, 3.1, window=4).distance(1e6) > 0.0


def test_only_the_window_counts_and_steps_without_targets_do_not():
    spikes = filled(*[100.0] * 64, *losses(1000)[-64:], window=64)
    assert spikes.distance(6.0) > 8
    before = spikes.state_dict()
    spikes.add(0.0)
    assert spikes.state_dict() == before
    assert spikes.distance(0.0) == 0.0


def test_the_state_judges_the_same():
    one, other = filled(*losses(200)), Spikes(128, 0.02)
    other.load_state_dict(one.state_dict())
    for value in losses(400, seed=1)[200:]:
        assert one.distance(value) == other.distance(value)
        one.add(value)
        other.add(value)
    smaller = Spikes(50, 0.02)
    smaller.load_state_dict(one.state_dict())
    assert smaller.state_dict() == one.state_dict()[-50:]
