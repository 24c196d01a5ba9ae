"""Schedules at their corner points."""

import pytest

from llm.optim import resolve_steps, warmup_cosine, warmup_linear, warmup_stable_decay


@pytest.mark.parametrize("schedule", [warmup_cosine, warmup_stable_decay])
def test_warmup_moves_at_once_and_ends_at_the_peak(schedule):
    values = [schedule(step, 100, warmup=4) for step in range(5)]
    assert values == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert [schedule(step, 100, warmup=0.04) for step in range(5)] == values


@pytest.mark.parametrize("schedule", [warmup_cosine, warmup_stable_decay])
def test_without_warmup_the_first_step_has_the_peak_rate(schedule):
    assert schedule(0, 100, warmup=0) == 1.0


def test_cosine_is_halfway_at_half_time_and_stays_at_its_floor():
    assert warmup_cosine(55, 100, warmup=10, min_ratio=0.2) == pytest.approx(0.6)
    assert warmup_cosine(100, 100, warmup=10, min_ratio=0.2) == pytest.approx(0.2)
    assert warmup_cosine(10_000, 100, warmup=10, min_ratio=0.2) == pytest.approx(0.2)


def test_stable_part_is_flat_and_the_decay_is_linear():
    values = [warmup_stable_decay(step, 100, warmup=10, decay=0.4, min_ratio=0.0) for step in range(102)]
    assert set(values[9:61]) == {1.0}
    assert values[80] == pytest.approx(0.5)
    assert values[99] == pytest.approx(1 / 40)  # the last step still learns
    assert values[100:] == [0.0, 0.0]


def test_decay_over_everything_is_the_linear_schedule():
    values = [warmup_stable_decay(step, 100, warmup=20, decay=1.0, min_ratio=0.1) for step in range(101)]
    assert values[20] == 1.0
    assert values[60] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)


def test_linear_goes_straight_from_the_peak_to_its_floor():
    values = [warmup_linear(step, 100, warmup=20, min_ratio=0.1) for step in range(102)]
    assert values[19:21] == [1.0, 1.0]
    assert values[60] == pytest.approx(0.55)
    assert values[100:] == pytest.approx([0.1, 0.1])


def test_a_branch_decays_from_its_step_to_the_end():
    values = [warmup_stable_decay(step, 50, warmup=10, decay=0.9, min_ratio=0.1, decay_start=30) for step in range(51)]
    assert set(values[9:31]) == {1.0}
    assert values[40] == pytest.approx(0.55)
    assert values[50] == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", [warmup_cosine, warmup_linear, warmup_stable_decay])
def test_a_warmup_longer_than_the_run_is_only_a_warmup(schedule):
    assert schedule(9, 10, warmup=20) == pytest.approx(0.5)


def test_lengths_are_steps_or_fractions():
    assert resolve_steps(1, 50) == 1
    assert resolve_steps(1.0, 50) == 50
    assert resolve_steps(0.02, 50) == 1
    with pytest.raises(ValueError, match="fraction"):
        resolve_steps(1.5, 50)
    with pytest.raises(ValueError, match="at least 0"):
        resolve_steps(-1, 50)
