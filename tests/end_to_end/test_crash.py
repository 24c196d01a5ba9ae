"""A run that is killed in any moment, while it prepares, trains or saves, ends as if nothing had happened."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import crash


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> crash.Result:
    folder = tmp_path_factory.mktemp("whole")
    crash.write_texts(folder)
    crash.kill_until_done(folder, [], random.Random(0), 0)
    return crash.result(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_and_started_again_until_it_ends(whole: crash.Result, tmp_path: Path, seed: int):
    crash.write_texts(tmp_path)
    kills = crash.kill_until_done(tmp_path, [], random.Random(seed), 5)
    assert len(kills) == 5
    assert {kill.code for kill in kills} <= {-9, -15, 143}
    assert crash.compare(whole, crash.result(tmp_path)) == []


@pytest.mark.slow
def test_the_comparison_sees_what_differs(whole: crash.Result):
    def changed(change: Callable[[crash.Result], None]) -> list[str]:
        other = crash.Result(dict(whole.state), [dict(row) for row in whole.rows], dict(whole.samples))
        change(other)
        return crash.compare(whole, other)

    key = ("samples-0.log", 7)
    assert changed(lambda other: None) == []
    assert changed(lambda other: other.rows.pop(3) and None) != []
    assert changed(lambda other: other.samples.pop(key) and None) == ["other samples in steps [7]"]
    assert changed(lambda other: other.samples.update({key: whole.samples[key][::-1]})) != []
    assert changed(lambda other: other.state.update(step=0)) == ["weights or optimizer state differ"]
