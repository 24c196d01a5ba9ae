"""Which optimizer settings each parameter of a GPT gets, by the role that it plays."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

Role = Literal["matrix", "embedding", "head", "scalar"]
ROLES: tuple[Role, ...] = ("matrix", "embedding", "head", "scalar")


def parameter_role(name: str, parameter: nn.Parameter) -> Role:
    """The role of a parameter of a GPT, from its qualified name and its number of dimensions.

    `embedding`: token, position and bigram tables (a tied head is the token table). `head`: an untied output
    projection. `matrix`: every other weight of two dimensions: those inside the blocks; and the stacked matrices of
    experts. `scalar`: norm weights, biases, and the gate of counts, which gives one number.

    Raises:
        ValueError: for any other parameter of three or more dimensions, which no role fits.
    """
    owner = name.rpartition(".")[0].rpartition(".")[2]
    if parameter.ndim == 3 and owner == "experts":
        return "matrix"
    if parameter.ndim > 2:
        raise ValueError(f"{name} has shape {tuple(parameter.shape)}; parameters of a GPT have one or two dimensions")
    if parameter.ndim < 2 or name.endswith("ngrams.gate.weight"):
        return "scalar"
    if owner in ("embedding", "position_embedding", "bigrams"):
        return "embedding"
    if owner == "head":
        return "head"
    return "matrix"


def parameter_groups(model: nn.Module, options: Mapping[Role, Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Sort the trainable parameters of a GPT into one optimizer group a role.

    Weight decay is off unless `options` sets it for a role. It belongs on matrices; an untied head decays only where
    its role asks for it, and tables, norm weights and biases, whose scale carries meaning, should not.

    Args:
        model: a GPT, or a module that holds one; parameters with `requires_grad=False` are left out.
        options: per role, what its group sets besides `params`: `method`, `lr`, `weight_decay`, `betas`, ...

    Returns:
        Groups in the order matrix, embedding, head, scalar, those without parameters left out; each with `params`,
        `role`, `names` (in the order of `params`), `weight_decay` 0.0 and what `options` sets. Each trainable parameter
        is in exactly one group, a shared one (a tied head) once, under its first name.

    Raises:
        ValueError: for an unknown role in `options`, or a parameter that fits no role.
    """
    options = options or {}
    for role in options:
        if role not in ROLES:
            raise ValueError(f"{role!r} is not a parameter role; the roles are {', '.join(ROLES)}")
    members: dict[Role, list[tuple[str, nn.Parameter]]] = {role: [] for role in ROLES}
    for name, parameter in model.named_parameters():  # names a shared parameter once
        if parameter.requires_grad:
            members[parameter_role(name, parameter)].append((name, parameter))
    groups: list[dict[str, Any]] = []
    for role in ROLES:
        if members[role]:
            names = [name for name, _ in members[role]]
            params = [parameter for _, parameter in members[role]]
            groups.append(
                {"params": params, "role": role, "names": names, "weight_decay": 0.0, **options.get(role, {})}
            )
    return groups
