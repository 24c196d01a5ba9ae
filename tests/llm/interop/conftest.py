"""A tokenizer and folders of transformers for the tests here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.peers import TEXT, build

from datamodules.text.patterns import GPT4_PATTERN
from datamodules.text.tokenizer import Tokenizer
from datamodules.text.training import train_bpe


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """300 ids, four fewer than the models have."""
    return Tokenizer(train_bpe([TEXT], 300, pattern=GPT4_PATTERN))


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Tokenizer) -> Callable[..., tuple[torch.nn.Module, Path]]:
    """Makes a model of transformers and the folder that it saves, with the tokenizer."""

    def save(name: str, **settings: Any) -> tuple[torch.nn.Module, Path]:
        model, folder = build(name, **settings), tmp_path / "theirs"
        model.save_pretrained(folder)
        (folder / "tokenizer.json").write_text(tokenizer.to_str())
        return model, folder

    return save
