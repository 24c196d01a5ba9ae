"""Labyrinth's model side: the GPT, the LightningModules that train it, and the command line that runs them.

The public names are loaded on first use, so that `import llm` (and `python -m llm --help`) does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm.model import GPT, GPTConfig
    from llm.modules import ClassificationModule, InstructionModule, LanguageModule, PreferenceModule, PretrainModule

_HOMES = {
    "ClassificationModule": "llm.modules",
    "GPT": "llm.model",
    "GPTConfig": "llm.model",
    "InstructionModule": "llm.modules",
    "LanguageModule": "llm.modules",
    "PreferenceModule": "llm.modules",
    "PretrainModule": "llm.modules",
}

__all__ = [
    "GPT",
    "ClassificationModule",
    "GPTConfig",
    "InstructionModule",
    "LanguageModule",
    "PreferenceModule",
    "PretrainModule",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
