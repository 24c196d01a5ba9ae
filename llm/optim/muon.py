"""Muon for matrices and AdamW for everything else, as one optimizer.

One object, because Lightning then steps, clips, schedules and saves it like any other optimizer.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from llm.model.parts import part_of
from llm.optim.newton_schulz import MAX_STEPS, orthogonalize
from llm.optim.rounding import round_stochastically
from llm.optim.sharding import gathered, is_sharded, local

_METHODS = ("muon", "adamw")
_WIDENED_AT_ONCE = 2**22  # entries of a moment in bfloat16


class MuonAdamW(Optimizer):
    """Step each group by its own `method`: "muon", or "adamw" where it names none.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): Nesterov momentum, then the nearest
    semi-orthogonal matrix. The step is scaled by 0.2 √max(rows, columns), which gives it the root mean square of a
    usual AdamW step whatever the shape (Liu et al. 2025, arXiv 2502.16982, section 2.2), so that `lr` and
    `weight_decay` mean the same for both methods. A parameter of three dimensions is a stack of matrices, each stepped
    by itself. Muon's state is one buffer a parameter, half of AdamW's. The iteration needs whole matrices: one that is
    sharded over processes (DTensor, as under FSDP2) is gathered for it, one parameter at a time, and every process
    keeps its own part of the step.

    AdamW (Loshchilov and Hutter 2019) is torch's own fused kernel, with bias correction. Weight decay is decoupled in
    both: w ← w − lr · weight_decay · w, before the step. A parameter without a gradient is left alone, its state too.

    Args:
        params: parameter groups; besides `params` and `method` each may set any option below for itself.
        lr: step size, to be set in each group as a rule.
        weight_decay: decoupled decay.
        betas: AdamW's two decay rates.
        eps: AdamW's term in the denominator.
        momentum: Muon's decay rate of the momentum; may be changed between steps through `param_groups`.
        nesterov: whether Muon looks one step of momentum ahead.
        ns_steps: Newton–Schulz iterations, 1 to 6.
        state_dtype: "bfloat16" keeps the moments and the momentum in half the memory, rounded stochastically
            (llm/optim/rounding.py); None in the dtype of the weights.

    Raises:
        ValueError: for an unknown method, a number out of its range, or a Muon parameter that is not a matrix.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]] | Iterable[Tensor],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        state_dtype: Literal["bfloat16"] | None = None,
    ) -> None:
        defaults = {
            "method": "adamw",
            "lr": lr,
            "weight_decay": weight_decay,
            "betas": betas,
            "eps": eps,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "state_dtype": state_dtype,
            # Tells torch's load_state_dict that AdamW's step counts must follow their parameters to another device.
            "fused": True,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            _check(group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["method"] == "muon":
                self._muon(group, params)
            else:
                self._adamw(group, params)
        return loss

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            self._prepare_state(group, p, ("exp_avg", "exp_avg_sq"))
        if group["state_dtype"] is not None:
            for p in params:
                self._narrow_adamw(group, p)
        elif params:
            states = [self.state[p] for p in params]
            _fused_adamw(
                group,
                [local(p) for p in params],
                [local(p.grad) for p in params if p.grad is not None],
                [local(s["exp_avg"]) for s in states],
                [local(s["exp_avg_sq"]) for s in states],
                [s["step"] for s in states],
            )

    def _narrow_adamw(self, group: dict[str, Any], p: Tensor) -> None:
        """Step a parameter whose moments are kept in bfloat16, some rows at a time, so that few are widened at once."""
        assert p.grad is not None
        state, weights = self.state[p], local(p)
        rows = max(1, _WIDENED_AT_ONCE * max(1, len(weights)) // max(1, weights.numel()))
        parts = (t.split(rows) for t in (weights, local(p.grad), local(state["exp_avg"]), local(state["exp_avg_sq"])))
        for weight, grad, first, second in zip(*parts, strict=True):
            wide = first.to(weight.dtype), second.to(weight.dtype)
            _fused_adamw(group, [weight], [grad], [wide[0]], [wide[1]], [state["step"].clone()])
            self._round(p, first, wide[0])
            self._round(p, second, wide[1])
        state["step"] += 1

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        # Matrices of one shape go through Newton–Schulz as one batch; a tall matrix lies on its side, so that the
        # smaller dimension comes first and a block's down projection joins its gate and up projections. The stacked
        # matrices of experts join as so many matrices. Of sharded ones each parameter goes alone: gathered all at once
        # they would fill the memory that sharding saved.
        batches: defaultdict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        for p in params:
            self._prepare_state(group, p, ("momentum_buffer",))
            alone = id(p) if is_sharded(p) else None
            batches[(min(p.shape[-2:]), max(p.shape[-2:]), alone)].append(p)
        for (shorter, longer, _), batch in batches.items():
            grads = [local(p.grad) for p in batch if p.grad is not None]
            kept = [self.state[p]["momentum_buffer"] for p in batch]
            narrow = group["state_dtype"] is not None
            buffers = [local(b).to(p.dtype) if narrow else local(b) for b, p in zip(kept, batch, strict=True)]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, buffers, group["momentum"]) if group["nesterov"] else buffers
            if narrow:
                for p, state, wide in zip(batch, kept, buffers, strict=True):
                    self._round(p, local(state), wide)
            whole = [gathered(m, p) for m, p in zip(ahead, batch, strict=True)]
            lying = [m.mT if m.size(-2) > m.size(-1) else m for m in whole]
            matrices = [m.reshape(-1, shorter, longer) for m in lying]
            steps = orthogonalize(torch.cat(matrices), group["ns_steps"]).split([len(m) for m in matrices])
            weights = [local(p) for p in batch]
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            updates = [
                part_of((s.mT if p.size(-2) > p.size(-1) else s).view(p.shape), p)
                for s, p in zip(steps, batch, strict=True)
            ]
            torch._foreach_add_(weights, updates, alpha=-group["lr"] * 0.2 * longer**0.5)

    def _prepare_state(self, group: dict[str, Any], p: Tensor, names: tuple[str, ...]) -> None:
        """Make the buffers of a parameter, or bring them to the group's dtype: torch loads them in the weights' own."""
        dtype = p.dtype if group["state_dtype"] is None else getattr(torch, group["state_dtype"])
        state = self.state[p]
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(p, dtype=dtype)
            elif state[name].dtype != dtype:
                state[name] = state[name].to(dtype)

    def _round(self, p: Tensor, narrow: Tensor, wide: Tensor) -> None:
        """Put `wide` into the state `narrow`, with noise that follows from how often the parameter's was rounded."""
        state = self.state[p]
        state["roundings"] = state.get("roundings", 0) + 1
        round_stochastically(narrow, wide, seed=state["roundings"])


def _fused_adamw(
    group: dict[str, Any],
    weights: list[Tensor],
    grads: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
) -> None:
    adamw(
        weights,
        grads,
        first,
        second,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _check(group: dict[str, Any]) -> None:
    if group["method"] not in _METHODS:
        raise ValueError(f"a parameter group's method is {group['method']!r}; it is one of {', '.join(_METHODS)}")
    for name in ("lr", "weight_decay", "eps"):
        if not group[name] >= 0:
            raise ValueError(f"{name} is {group[name]}; it must be at least 0")
    for name, rate in (("momentum", group["momentum"]), ("betas", group["betas"][0]), ("betas", group["betas"][1])):
        if not 0 <= rate < 1:
            raise ValueError(f"{name} has {rate}; it must be at least 0 and below 1")
    if group["state_dtype"] not in (None, "bfloat16"):
        raise ValueError(f"state_dtype is {group['state_dtype']!r}; it is 'bfloat16' or None")
    if not 1 <= group["ns_steps"] <= MAX_STEPS:
        raise ValueError(f"ns_steps is {group['ns_steps']}; it must be 1 to {MAX_STEPS}")
    if group["method"] == "muon":
        for p in group["params"]:
            if p.ndim not in (2, 3):
                raise ValueError(
                    f"Muon steps matrices; a parameter of shape {tuple(p.shape)} belongs in an adamw group"
                )
