"""The classes that a configuration chooses from by name: what is trained, and what it reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.classification import ClassificationDataModule
from datamodules.instruction import InstructionDataModule
from datamodules.preference import PreferenceDataModule
from datamodules.pretraining import PretrainDataModule
from llm.configuration import shipped_configs
from llm.modules import ClassificationModule, InstructionModule, PreferenceModule, PretrainModule

MODULES: tuple[type, ...] = (PretrainModule, ClassificationModule, InstructionModule, PreferenceModule)
DATA_MODULES: tuple[type, ...] = (
    PretrainDataModule,
    ClassificationDataModule,
    InstructionDataModule,
    PreferenceDataModule,
)
PARTS: Mapping[str, tuple[type, ...]] = {"model": MODULES, "data": DATA_MODULES}


def chosen(part: str, given: Any) -> type | None:
    """The class of ours that a parsed part of a configuration names, or None."""
    name = given.class_path.rpartition(".")[2] if given is not None else ""
    return next((cls for cls in PARTS[part] if cls.__name__ == name), None)


def named_in(arguments: Sequence[str], part: str) -> type:
    """The class of ours that a command line, or a configuration on it, speaks of; the one for pretraining if none."""
    words = [word.partition("=")[2] or word for word in arguments]
    files = [shipped_configs().get(word, Path(word)) for word in words if word.endswith(".yaml") or word.isidentifier()]
    text = "\n".join([*arguments, *(file.read_text(errors="replace") for file in files if file.is_file())])
    return next((cls for cls in PARTS[part] if cls.__name__ in text), PARTS[part][0])
