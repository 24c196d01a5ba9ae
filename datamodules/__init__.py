"""Data for language models, as LightningDataModules and as parts that work without Lightning and torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.classification import ClassificationDataModule
    from datamodules.instruction import InstructionDataModule
    from datamodules.preference import PreferenceDataModule
    from datamodules.pretraining import PretrainDataModule

__all__ = [
    "ClassificationDataModule",
    "DataError",
    "InstructionDataModule",
    "PreferenceDataModule",
    "PretrainDataModule",
]

from datamodules.errors import DataError

_HOME = {
    "ClassificationDataModule": "datamodules.classification",
    "InstructionDataModule": "datamodules.instruction",
    "PreferenceDataModule": "datamodules.preference",
    "PretrainDataModule": "datamodules.pretraining",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: `import datamodules` alone brings in neither torch nor Lightning."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
