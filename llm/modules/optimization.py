"""From the settings of a LanguageModule to its optimizer and schedules."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from llm.errors import UserError
from llm.model import GPT
from llm.optim import MuonAdamW, Role, parameter_groups, warmup_cosine, warmup_linear, warmup_stable_decay
from llm.optim.scaling import width_multipliers


def build_optimizer(model: nn.Module, settings: Mapping[str, Any], lr: float) -> MuonAdamW:
    """One optimizer with a rate and a decay per role of parameter; `lr` is the matrices', and that of all others."""
    method: Literal["muon", "adamw"] = "muon" if settings["optimizer"] == "muon" else "adamw"
    options: dict[Role, dict[str, Any]] = {"matrix": {"method": method, "weight_decay": settings["weight_decay"]}}
    for role in ("embedding", "head", "scalar"):
        if settings[f"{role}_lr"] is not None:
            options[role] = {"lr": settings[f"{role}_lr"]}
    groups = parameter_groups(model, options)
    if settings.get("mup_base_width") is not None:
        assert isinstance(model, GPT)
        multipliers = width_multipliers(model.config.d_model / settings["mup_base_width"], method)
        for group in groups:
            factor = multipliers[group["role"]]
            group["lr"] = group.get("lr", lr) * factor
            group["weight_decay"] /= factor  # keeps lr · weight_decay, the share that each step takes away
    return MuonAdamW(
        groups,
        lr=lr,
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        momentum=settings["momentum"],
        state_dtype=settings["state_dtype"],
    )


def build_schedule(
    settings: Mapping[str, Any], total_steps: int, decay_start: int | None = None
) -> Callable[[int], float]:
    """The multiplier of the learning rate at a step; `decay_start` is the step of a checkpoint to branch off."""
    common = {"total_steps": total_steps, "warmup": settings["warmup"], "min_ratio": settings["min_lr"]}
    if settings["schedule"] == "wsd":
        return partial(warmup_stable_decay, decay=settings["decay"], decay_start=decay_start, **common)
    return partial(warmup_linear if settings["schedule"] == "linear" else warmup_cosine, **common)


def branch_step(optimizer: Optimizer, step: int) -> int:
    """The step at which a decay begins that branches off a checkpoint: the checkpoint's own.

    Args:
        optimizer: with the groups as the checkpoint has them.
        step: at which the checkpoint was taken; 0 without one.

    Raises:
        UserError: there is no checkpoint, or it is not of the stable part.
    """
    if step == 0:
        raise UserError("model.decay_from_checkpoint needs the checkpoint to branch off: give it with --ckpt_path")
    group = optimizer.param_groups[0]
    if group["lr"] < group["initial_lr"] * (1 - 1e-6):
        raise UserError(
            f"the checkpoint's learning rate is {group['lr'] / group['initial_lr']:.2f} of its peak: a decay branches "
            "off the stable part, so give a checkpoint from after the warm-up and before the decay"
        )
    return step


def apply_settings(
    optimizer: Optimizer,
    scheduler: LambdaLR,
    settings: Sequence[Mapping[str, Any]],
    schedule: Callable[[int], float],
) -> None:
    """Let a run's `settings` of each group and its `schedule` win over those that a checkpoint brought along."""
    scheduler.lr_lambdas = [schedule] * len(optimizer.param_groups)
    scheduler.base_lrs = [mine["initial_lr"] for mine in settings]
    factor = schedule(scheduler.last_epoch)
    for group, mine in zip(optimizer.param_groups, settings, strict=True):
        group.update(mine, lr=mine["initial_lr"] * factor)


def schedule_weight_decay(
    optimizer: Optimizer, settings: Sequence[Mapping[str, Any]], schedule: str, progress: float
) -> None:
    """Set the weight decay of a step in each group, whose peak values are its `settings`.

    The decay is decoupled: a step takes lr · weight_decay of a weight away, so a constant one already follows the
    learning rate. `linear` goes to zero besides, with `progress` from 0 to 1. `lr` multiplies it with the learning rate
    as a share of its peak: what a step takes away then falls with its square.
    """
    for group, peak in zip(optimizer.param_groups, settings, strict=True):
        factor = 1.0
        if schedule == "linear":
            factor = max(0.0, 1 - progress)
        elif schedule == "lr" and peak["initial_lr"]:
            factor = group["lr"] / peak["initial_lr"]
        group["weight_decay"] = peak["weight_decay"] * factor
