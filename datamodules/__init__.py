"""Data for language models, as LightningDataModules and as parts that work without Lightning and torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.pretraining import PretrainDataModule

__all__ = ["DataError", "PretrainDataModule"]

from datamodules.errors import DataError


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: `import datamodules` alone brings in neither torch nor Lightning."""
    if name == "PretrainDataModule":
        from datamodules.pretraining import PretrainDataModule

        return PretrainDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
