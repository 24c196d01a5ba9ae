"""The curve shows what it was given."""

import pytest
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

from callbacks.curve import TrainingCurve, draw_curve, running_mean


def test_a_falling_curve_starts_at_the_top_left_and_ends_at_the_bottom_right():
    lines = draw_curve([(step, 100 - step) for step in range(101)], width=20, height=5).splitlines()
    assert lines[0].startswith("100.00 │")
    assert lines[4].startswith("  0.00 │")
    first, last = lines[0].split("│")[1], lines[4].split("│")[1]
    assert first[0] != "\u2800"
    assert first[-1] == "\u2800"
    assert last[-1] != "\u2800"
    assert last[0] == "\u2800"
    assert lines[-1].split() == ["0", "100"]


def test_nan_is_left_out_and_flat_or_short_curves_are_drawn():
    assert "2.00" in draw_curve([(0, 2.0), (1, float("nan")), (2, 2.0)])
    assert draw_curve([(0, 1.0)]).startswith("(")


def test_dots_are_those_of_the_unicode_chart():
    falling_left = draw_curve([(0, 3.0), (1, 3.0), (2, 0.0), (3, 0.0)], width=2, height=2).splitlines()
    assert [line.split("│")[1] for line in falling_left[:2]] == ["⠉⡇", "⠀⣇"]
    falling_right = draw_curve([(0, 3.0), (1, 0.0)], width=1, height=2).splitlines()
    assert [line.split("│")[1] for line in falling_right[:2]] == ["⢹", "⢸"]


@pytest.mark.parametrize(("every", "kept"), [(1, [1, 9, 11, 12]), (5, [1, 5, 10])])
def test_points_are_kept_at_the_first_and_at_logging_steps_and_a_long_run_thins_them_out(every: int, kept: list[int]):
    curve = TrainingCurve()
    curve.MAX_POINTS = 4
    batches = [make_batch(2, 8, 16, seed) for seed in range(24)]
    trainer = make_trainer(callbacks=[curve], log_every_n_steps=every, accumulate_grad_batches=2)
    trainer.fit(make_module(), datamodule=ListDataModule(batches))
    assert [step for step, _ in curve.points] == kept
    resumed = TrainingCurve()
    resumed.load_state_dict(curve.state_dict())
    assert resumed.points == curve.points


def test_a_running_mean_keeps_the_ends_and_straight_lines():
    line = [(float(i), 2.0 * i) for i in range(10)]
    assert running_mean(line, 3) == line
    assert running_mean([(0, 0.0), (1, 3.0), (2, 0.0)], 1) == [(0, 0.0), (1, 1.0), (2, 0.0)]
    assert running_mean(line, 0) == line


def test_a_curve_of_one_line():
    assert draw_curve([(0, 1), (1, 2)], height=1).splitlines()[0].startswith("2.00 │")
