"""How parameters move: Muon and AdamW in one optimizer, parameter groups by role, learning-rate schedules."""

from llm.optim.groups import ROLES, Role, parameter_groups, parameter_role
from llm.optim.muon import MuonAdamW
from llm.optim.newton_schulz import orthogonalize
from llm.optim.schedules import resolve_steps, warmup_cosine, warmup_linear, warmup_stable_decay

__all__ = [
    "ROLES",
    "MuonAdamW",
    "Role",
    "orthogonalize",
    "parameter_groups",
    "parameter_role",
    "resolve_steps",
    "warmup_cosine",
    "warmup_linear",
    "warmup_stable_decay",
]
