"""Small corpora for the tests of the data modules."""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus.reading.sources import Input, file_format

SENTENCE = "the cat sat on a mat while every old dog ran past seven green doors and found no bone under them"
WORDS = SENTENCE.split()


def sentences(seed: int, n_words: int) -> str:
    """Reproducible prose of a small vocabulary, in lines."""
    source = random.Random(seed)
    words = [source.choice(WORDS) for _ in range(n_words)]
    return "\n".join(" ".join(words[start : start + 12]) for start in range(0, n_words, 12)) + "\n"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models of the tests are so small that threads only wait for each other."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of 60 different documents of about 1.5 kB."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:03}.txt").write_text(sentences(number, 300 + number))
    return folder


@pytest.fixture
def small(tmp_path: Path, texts: Path) -> Callable[..., Any]:
    """Makes a PretrainDataModule of small numbers over `texts`; keyword arguments override them."""

    def build(**options: Any) -> Any:
        from datamodules import PretrainDataModule

        defaults: dict[str, Any] = {
            "sources": [str(texts)],
            "validation_fraction": 0.1,
            "vocab_size": 300,
            "context_length": 32,
            "global_batch_tokens": 32 * 8,
            "batch_size": 2,
            "cache_dir": str(tmp_path / "cache"),
        }
        return PretrainDataModule(**(defaults | options))

    return build


@pytest.fixture
def as_input() -> Callable[[Path], Input]:
    """The input for one file."""

    def make(path: Path) -> Input:
        kind = file_format(path)
        assert kind is not None
        return Input(path.name, path.name, kind, path)

    return make
