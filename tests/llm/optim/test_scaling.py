"""The multipliers of maximal-update scaling, as the papers' tables have them."""

import pytest

from llm.optim.scaling import width_multipliers


def test_adamw_follows_table_3():
    assert width_multipliers(4.0, "adamw") == {"matrix": 0.25, "embedding": 1.0, "head": 0.25, "scalar": 1.0}


def test_muon_keeps_the_spectral_norm_of_a_step():
    factor = width_multipliers(4.0, "muon")["matrix"]
    norms = [0.2 * max(rows, columns) ** 0.5 for rows, columns in ((64, 192), (256, 768))]
    assert norms[1] * factor == pytest.approx(norms[0])


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_the_base_width_itself_is_left_as_it_is(method):
    assert set(width_multipliers(1.0, method).values()) == {1.0}
