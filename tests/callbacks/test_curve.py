"""The curve shows what it was given."""

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


def test_a_long_run_keeps_a_bounded_number_of_points():
    curve = TrainingCurve()
    curve.load_state_dict({"points": [(i, 1.0) for i in range(curve.MAX_POINTS)]})
    assert curve.state_dict()["points"][0] == (0.0, 1.0)


def test_a_running_mean_keeps_the_ends_and_straight_lines():
    line = [(float(i), 2.0 * i) for i in range(10)]
    assert running_mean(line, 3) == line
    assert running_mean([(0, 0.0), (1, 3.0), (2, 0.0)], 1) == [(0, 0.0), (1, 1.0), (2, 0.0)]
    assert running_mean(line, 0) == line
