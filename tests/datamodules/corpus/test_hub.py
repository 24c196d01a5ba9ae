from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpus import hub
from datamodules.corpus.pipeline import Pipeline
from datamodules.corpus.shards import read_batches, shards_of
from datamodules.errors import DataError

TEXTS = [f"row {number} of a small data set" for number in range(40)]


def test_names() -> None:
    assert hub.parse("hf:roneneldan/TinyStories") == ("roneneldan/TinyStories", None, "train")
    assert hub.parse("hf:owner/name/config:validation") == ("owner/name", "config", "validation")
    assert hub.parse("hf:imdb") == ("imdb", None, "train")


def read(tmp_path: Path, spec: str, **options: str) -> set[str]:
    artefact = Pipeline([spec], validation_fraction=0.0, **options).prepare(tmp_path / "cache")
    return {
        text for batch in read_batches(shards_of(artefact.folder, "train")) for text in batch.column("text").to_pylist()
    }


def test_a_folder_of_data_files_is_streamed(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"text": TEXTS, "label": range(40)}), tmp_path / "set" / "train.parquet")
    assert read(tmp_path, f"hf:{tmp_path}/set") == set(TEXTS)
    with pytest.raises(DataError, match="no field 'body', it has 'text', 'label'"):
        read(tmp_path, f"hf:{tmp_path}/set", text_field="body")


@pytest.mark.parametrize("splits", [False, True])
def test_a_folder_that_datasets_saved(tmp_path: Path, splits: bool) -> None:
    import datasets

    saved = datasets.Dataset.from_dict({"text": TEXTS})
    (datasets.DatasetDict({"train": saved}) if splits else saved).save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path, str(tmp_path / "saved")) == set(TEXTS)


def test_the_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(DataError, match=r"cannot ask the hub for hf:owner/name \(no route to host\)"):
        Pipeline(["hf:owner/name"]).plan(tmp_path)
    assert hub.revision("hf:owner/name", "abc") == "abc"
