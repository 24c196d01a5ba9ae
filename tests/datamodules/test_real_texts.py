"""Real texts of each kind: one file, a folder of long ones, many small rows, and the running Python's own library."""

import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from datamodules import PretrainDataModule


def prepared(tmp_path: Path, *sources: Path | str, **options: Any) -> tuple[PretrainDataModule, dict[str, Any]]:
    options = {"vocab_size": 1024, "context_length": 128, "global_batch_tokens": 2048} | options
    data = PretrainDataModule(sources=[str(source) for source in sources], cache_dir=str(tmp_path / "cache"), **options)
    report = data.prepare()
    data.setup("fit")
    return data, report


def whole_text(data: PretrainDataModule) -> list[str]:
    """The documents, put together from the two stores."""
    texts = []
    for store in (data.prepared.train, data.prepared.validation):
        assert store is not None
        for start, end in zip(store.offsets[:-1].tolist(), store.offsets[1:].tolist(), strict=True):
            texts.append(data.tokenizer.decode(store.tokens[start : end - 1].tolist()))
    return texts


def test_tinyshakespeare_is_one_file_and_has_the_usual_tail(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "tinyshakespeare" / "input.txt"
    data, report = prepared(tmp_path, path, validation_fraction=0.1)
    assert report["split"]["by"] == "tails"
    assert report["split"]["share_of_bytes"] == pytest.approx(0.1, abs=0.001)
    assert "".join(whole_text(data)) == path.read_text()
    assert report["train"]["bytes_per_token"] > 2.4
    assert data.steps_per_epoch > 100


@pytest.mark.slow
def test_novels(tmp_path: Path, shared_data: Path) -> None:
    data, report = prepared(tmp_path, shared_data / "novels")
    assert report["documents"]["read"]["documents"] == 10
    assert report["documents"]["read"]["replaced"] == 0
    assert 0.025 < report["split"]["share_of_bytes"] < 0.1
    assert data.rows * 128 > 2_000_000
    assert not any("\r" in text or "\ufeff" in text for text in whole_text(data))


def test_tinystories(tmp_path: Path, shared_data: Path) -> None:
    _, report = prepared(tmp_path, shared_data / "tinystories" / "tinystories_10k.txt", validation_fraction=0.02)
    assert report["split"]["share_of_bytes"] == pytest.approx(0.02, abs=0.001)
    assert report["train"]["bytes_per_token"] > 2.9


def test_c4_rows_are_split_whole(tmp_path: Path, shared_data: Path) -> None:
    data, report = prepared(tmp_path, shared_data / "c4-sample" / "c4_demo.jsonl", validation_fraction=0.1)
    assert report["documents"]["read"]["documents"] == 300
    assert report["split"]["by"] == "documents"
    assert len(whole_text(data)) == report["documents"]["kept"]["documents"]


def test_several_kinds_at_once(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data
    _, report = prepared(
        tmp_path,
        f"{folder}/novels/B*.txt",
        folder / "c4-sample" / "c4_demo.jsonl",
        folder / "the-verdict" / "the-verdict.txt",
        validation_sources=[str(folder / "tinyshakespeare")],
    )
    assert report["documents"]["read"]["documents"] == 6 + 300 + 1 + 2
    assert report["split"]["by"] == "sources"


@pytest.mark.slow
def test_the_standard_library(tmp_path: Path) -> None:
    _, report = prepared(tmp_path, "stdlib", vocab_size=2048)
    assert report["documents"]["read"]["documents"] > 600
    assert report["documents"]["read"]["replaced"] <= 10
    assert report["split"]["by"] == "documents"
    assert 0.025 < report["split"]["share_of_bytes"] < 0.1
    assert report["train"]["bytes_per_token"] > 2.7
    again = prepared(tmp_path, "stdlib", vocab_size=2048)[1]
    assert again["reused"]
    assert again["seconds"] < 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert peak < 3e9
