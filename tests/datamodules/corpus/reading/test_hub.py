from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpus.pipeline import Pipeline
from datamodules.corpus.reading import hub
from datamodules.corpus.reading.planning import plan_shards
from datamodules.corpus.reading.readers import DocumentReader
from datamodules.corpus.reading.sources import resolve
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
    with pytest.raises(DataError, match=r"rows cannot be used.*no field 'body', it has 'text', 'label'"):
        read(tmp_path, f"hf:{tmp_path}/set", text_field="body")


@pytest.mark.parametrize("splits", [False, True])
def test_a_folder_that_datasets_saved(tmp_path: Path, splits: bool) -> None:
    import datasets

    saved = datasets.Dataset.from_dict({"text": TEXTS})
    (datasets.DatasetDict({"train": saved}) if splits else saved).save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path, str(tmp_path / "saved")) == set(TEXTS)


@pytest.mark.parametrize("saved", [False, True])
def test_a_data_set_of_several_files_is_read_in_parts(tmp_path: Path, saved: bool) -> None:
    import datasets

    (tmp_path / "set").mkdir()
    if saved:
        datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(tmp_path / "set"), num_shards=3)
    else:
        for part in range(3):
            pq.write_table(pa.table({"text": TEXTS[part::3]}), tmp_path / "set" / f"train-{part}.parquet")
    inputs = resolve(str(tmp_path / "set") if saved else f"hf:{tmp_path}/set")
    shards = plan_shards(inputs, 1 << 30)
    assert [(part.start, part.end) for shard in shards for part in shard.parts] == [(0, 1), (1, 2), (2, 3)]
    parts = [row for shard in shards for row in rows(DocumentReader(shard))]
    assert parts == rows(DocumentReader(inputs))
    assert sorted(text for _, text in parts) == sorted(TEXTS)
    assert len({key for key, _ in parts}) == 40


def rows(reader: DocumentReader) -> list[tuple[str, str]]:
    return [row for batch in reader for row in zip(*(batch.column(n).to_pylist() for n in ("id", "text")), strict=True)]


def test_the_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(DataError, match=r"cannot ask the hub for hf:owner/name \(no route to host\)"):
        Pipeline(["hf:owner/name"]).plan(tmp_path)
    assert hub.revision("hf:owner/name", "abc") == "abc"
