"""bfloat16 state of the optimizer: right in expectation, alike everywhere, near the full state in its result."""

import pytest
import torch
from torch import nn

from llm.optim import MuonAdamW
from llm.optim.rounding import round_stochastically


def test_rounding_is_to_a_neighbour_right_on_average_and_exact_where_nothing_is_lost():
    values = torch.tensor([1.0, 1.001, -3.3e-7, 12345.678, 0.0]).repeat_interleave(40_000).view(5, -1)
    rounded = torch.empty_like(values, dtype=torch.bfloat16)
    round_stochastically(rounded, values, seed=3)
    spacing = values[:, :1].abs() * 2**-7
    assert ((rounded.float() - values).abs() <= spacing).all()
    assert ((rounded.float().mean(1) - values[:, 0]).abs() <= spacing[:, 0] * 0.02).all()
    assert torch.equal(rounded[[0, 4]].float(), values[[0, 4]])
    again, other = torch.empty_like(rounded), torch.empty_like(rounded)
    round_stochastically(again, values, seed=3)
    round_stochastically(other, values, seed=4)
    assert torch.equal(rounded, again)
    assert not torch.equal(rounded, other)


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_bfloat16_state_is_half_as_large_and_trains_nearly_alike(method, monkeypatch):
    """With a decay of 0.999 rounding to the nearest would leave the second moment where the first step put it."""
    monkeypatch.setattr("llm.optim.muon._WIDENED_AT_ONCE", 100)  # 24 rows of 16 go by six
    start = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    ends = []
    for dtype in (None, "bfloat16"):
        p = nn.Parameter(start.clone())
        group = {"params": [p], "method": method, "lr": 0.01, "betas": (0.9, 0.999)}
        optimizer = MuonAdamW([group], state_dtype=dtype)
        generator = torch.Generator().manual_seed(1)
        for step in range(200):
            p.grad = (0.1 + 2 * step / 200) * torch.randn(p.shape, generator=generator) + 0.3
            optimizer.step()
        moments = [s for name, s in optimizer.state[p].items() if isinstance(s, torch.Tensor) and name != "step"]
        assert {s.dtype for s in moments} == {torch.float32 if dtype is None else torch.bfloat16}
        ends.append((p.detach() - start, moments[-1].float()))
    assert (ends[1][0] - ends[0][0]).norm() < 0.03 * ends[0][0].norm()
    assert (ends[1][1] - ends[0][1]).norm() < 0.03 * ends[0][1].norm()


def test_a_resume_goes_on_bit_by_bit_and_takes_state_of_either_kind(tmp_path):
    def train(parameters, optimizer, steps, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()

    def make(dtype="bfloat16"):
        parameters = [nn.Parameter(torch.ones(8, 12)), nn.Parameter(torch.ones(8))]
        groups = [{"params": parameters[:1], "method": "muon"}, {"params": parameters[1:]}]
        return parameters, MuonAdamW(groups, lr=0.01, state_dtype=dtype)

    parameters, optimizer = make()
    train(parameters, optimizer, 3, seed=0)
    torch.save((optimizer.state_dict(), parameters), tmp_path / "state.pt")
    train(parameters, optimizer, 3, seed=1)

    saved, weights = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, optimizer = make()
    for p, old in zip(resumed, weights, strict=True):
        p.data.copy_(old)
    optimizer.load_state_dict(saved)
    train(resumed, optimizer, 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(parameters, resumed, strict=True))

    full, optimizer = make(None)
    optimizer.load_state_dict(saved)
    for group in optimizer.param_groups:
        group["state_dtype"] = None  # as a module does with the settings of a resumed run
    train(full, optimizer, 1, seed=1)
    assert optimizer.state[full[0]]["momentum_buffer"].dtype == torch.float32


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match="state_dtype is 'float16'"):
        MuonAdamW([nn.Parameter(torch.ones(2))], state_dtype="float16")
