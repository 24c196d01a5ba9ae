"""Texts with labels, for classification, as a LightningDataModule of use with any LightningModule."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader

from datamodules.errors import DataError
from datamodules.finetuning import STDLIB, FineTuneDataModule
from datamodules.records.labelled import (
    Labelled,
    contradictions,
    labelled_of,
    stratified,
    without_duplicates,
    without_held_out,
)
from datamodules.records.reading import Row, read_rows
from datamodules.records.splitting import Split
from datamodules.samples import Sample
from datamodules.tokens.bucketed_order import BucketedOrder
from datamodules.tokens.sample_order import SampleOrder
from datamodules.tokens.text_rows import TextRows

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same records and tokenizer give other rows
LABELS_FILE = "labels.json"


class ClassificationDataModule(FineTuneDataModule):
    """Texts and their classes to padded batches, texts of like length together.

    Batches are dicts of `tokens` int64 [B, T], `lengths` int64 [B], `labels` int64 [B] (bool [B, C] where a text can
    have several) and `numbers` int64 [B]. A text is encoded as before every document in pretraining: one token, then
    the text. Each optimizer step gets the same texts whatever the hardware, and a resumed run goes on where it ended.

    Args:
        tokenizer: path of the `tokenizer.json` of the model that is tuned; on the command line it follows from the
            model's checkpoint.
        sources: files (.csv, .tsv, .json, .jsonl, .parquet, .arrow), folders, globs, `hf:owner/name[/config][:split]`;
            or `stdlib`: passages of the running Python's own library, and the area that each is from.
        validation_sources: records for validation alone.
        test_sources: records for `test` alone.
        predict_sources: texts for `predict`, which need no labels.
        columns: of .csv and .tsv files without a header, the names of their columns.
        text_field: the column that is the text.
        label_field: the column that is its label.
        separator: texts can have any number of labels, between which this stands (a list in JSON needs none); null:
            each has one.
        validation_fraction: share of `sources` for validation, where no `validation_sources` are given; each class has
            its share there, and equal texts, or those with the same field `group`, stay together.
        test_fraction: share of `sources` for `test`, where no `test_sources` are given.
        drop_duplicates: of texts that are equal but for case and blanks keep the first alone.
        split_seed: of the split.
        max_length: the most tokens of a text.
        keep: of a longer text the `start` or the `end`.
        global_batch_size: texts in one optimizer step over all devices.
        batch_size: most texts on one device at once; the largest number up to it that divides the step is taken.
        eval_batch_size: texts at once in validation, `batch_size` if not given.
        num_workers: processes that load batches.
        seed: of the order of the texts.
        cache_dir: where rows are kept between runs.
        base_tokens: folder of the tokens of the model's pretraining: how well it still predicts their validation text
            tells what it forgets; on the command line it is found where it is in `cache_dir`.
        base_rows: the most rows of it that are scored, spread evenly.

    Raises:
        DataError: from `prepare_data` and `setup`, for records that cannot be used: file, line, and what to do.
    """

    def __init__(
        self,
        tokenizer: str | None = None,
        sources: list[str] | str = STDLIB,
        validation_sources: list[str] | str | None = None,
        test_sources: list[str] | str | None = None,
        predict_sources: list[str] | str | None = None,
        columns: list[str] | None = None,
        text_field: str = "text",
        label_field: str = "label",
        separator: str | None = None,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.0,
        drop_duplicates: bool = False,
        split_seed: int = 0,
        max_length: int = 256,
        keep: Literal["start", "end"] = "start",
        global_batch_size: int = 32,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data",
        base_tokens: str | None = None,
        base_rows: int = 256,
    ) -> None:
        given = {
            "train": sources,
            "validation": validation_sources,
            "test": test_sources,
            "predict": predict_sources,
        }
        super().__init__(
            tokenizer,
            given,
            cache_dir,
            base_tokens,
            base_rows,
            rows_per_step=global_batch_size,
            row_tokens=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.save_hyperparameters(logger=False)
        for name in ("max_length", "global_batch_size", "batch_size", "base_rows"):
            if self.hparams[name] < 1:
                raise DataError(f"{name} is {self.hparams[name]}; it can be 1 or more")
        if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
            raise DataError("validation_fraction and test_fraction can be 0 or more, and together below 1")
        self.max_length = max_length
        self.fractions: dict[Split, float] = {
            "validation": 0.0 if validation_sources else validation_fraction,
            "test": 0.0 if test_sources else test_fraction,
        }
        self._rows: dict[str, TextRows | None] = {}

    # What others may ask.

    @property
    def labels(self) -> list[str]:
        """The names of the classes, in the order of their numbers."""
        found: list[str] = json.loads((self.artefact.folder / LABELS_FILE).read_text(encoding="utf-8"))
        return found

    @property
    def multi_label(self) -> bool:
        """Whether a text can have any number of labels."""
        return self.hparams["separator"] is not None

    def texts(self, split: str) -> list[str]:
        """The texts of a split, in the order of their numbers; none where there is no such split."""
        path = self.artefact.folder / f"{split}.parquet"
        found: list[str] = pq.read_table(path, columns=["text"])["text"].to_pylist() if path.is_file() else []
        return found

    def class_counts(self) -> np.ndarray:
        """int64 [C]: texts for training of each class."""
        rows = self.rows_of_split("train")
        assert rows is not None
        return rows.labels.sum(0) if self.multi_label else np.bincount(rows.labels, minlength=len(self.labels))

    # What is made, once.

    def recipe_settings(self) -> tuple[str, int, dict[str, Any]]:
        """The name and version of the rows, and the settings on which they depend."""
        names = (
            "columns",
            "text_field",
            "label_field",
            "separator",
            "drop_duplicates",
            "split_seed",
            "max_length",
            "keep",
        )
        return (
            "classified",
            VERSION,
            {**{n: self.hparams[n] for n in names}, "fractions": list(self.fractions.values())},
        )

    def build(self, folder: Path) -> dict[str, Any]:
        """Read, split, encode and write the texts."""
        texts = self._split()
        labels = sorted({label for one in texts["train"] for label in one.labels})
        if len(labels) < 2:
            there = f"only {labels[0]!r}" if labels else "none"
            raise DataError(
                f"the texts for training have {there} as label in {self.hparams['label_field']!r}: classification "
                "needs two classes or more; check label_field and the sources"
            )
        for split in ("validation", "test"):
            for one in texts[split]:
                unknown = [label for label in one.labels if label not in labels]
                if unknown:
                    raise DataError(
                        f"{one.place()} has the label {unknown[0]!r}, which no text for training has (there are: "
                        f"{', '.join(labels[:20])}); drop the record, or give records for training with it"
                    )
        (folder / LABELS_FILE).write_text(json.dumps(labels, ensure_ascii=False), encoding="utf-8")
        told = {split: self._write(folder, split, found, labels) for split, found in texts.items() if found}
        return {"splits": told, "labels": labels}

    def _split(self) -> dict[str, list[Labelled]]:
        read = {}
        for split in self.sources:
            field = None if split == "predict" else self.hparams["label_field"]
            found, empty = labelled_of(
                self._rows_of(split), self.hparams["text_field"], field, self.hparams["separator"]
            )
            if empty:
                log.warning("left out: %s empty texts of %s", f"{empty:,}", split)
            if not found:
                raise DataError(f"the sources of {split} hold no text ({empty:,} are empty); check text_field")
            read[split] = without_duplicates(found) if self.hparams["drop_duplicates"] and field else found
        if conflicting := contradictions(read["train"]):
            log.warning("%s texts stand there several times, with different labels", f"{conflicting:,}")
        given = [*read.get("validation", []), *read.get("test", [])]
        train = without_held_out(read["train"], given) if given else read["train"]
        cut = stratified(train, self.fractions, self.hparams["split_seed"])
        found_splits: dict[str, list[Labelled]] = {str(split): found for split, found in cut.items()}
        found_splits |= {split: found for split, found in read.items() if split != "train"}
        if not found_splits["train"]:
            raise DataError("no text is left for training: give more, or lower validation_fraction and test_fraction")
        return found_splits

    def _rows_of(self, split: str) -> Iterator[Row]:
        if self.sources[split] != STDLIB:
            return read_rows(self.sources[split], self.hparams["columns"])
        from datamodules.stdlib.areas import passages

        return (Row(record, record["source"].__str__) for record in passages())

    def _write(self, folder: Path, split: str, texts: list[Labelled], labels: list[str]) -> dict[str, Any]:
        ids, cut = self.encode([one.text for one in texts])
        np.save(folder / f"{split}-ids.npy", np.concatenate(ids).astype(np.uint32))
        np.save(folder / f"{split}-offsets.npy", np.concatenate([[0], np.cumsum([len(one) for one in ids])]))
        number = {label: index for index, label in enumerate(labels)}
        if split == "predict":
            values = np.full(len(texts), -100, np.int64)
        elif self.multi_label:
            values = np.array([[label in one.labels for label in labels] for one in texts])
        else:
            values = np.array([number[one.labels[0]] for one in texts], np.int64)
        np.save(folder / f"{split}-labels.npy", values)
        pq.write_table(pa.table({"text": [one.text for one in texts]}), folder / f"{split}.parquet")
        counts = Counter(label for one in texts for label in one.labels)
        log.info(
            "texts: %s has %s of %s tokens, %s of them cut", split, f"{len(ids):,}", f"{sum(map(len, ids)):,}", cut
        )
        shown = {f"of {label}": counts[label] for label in labels} if split != "predict" else {}
        return {"texts": len(texts), "tokens": sum(map(len, ids)), "cut": cut, **shown}

    def encode(self, texts: Sequence[str]) -> tuple[list[np.ndarray], int]:
        """The ids of texts as the model reads them, int64 [n] each, and how many of them were cut."""
        return encode_texts(self.tokenizer, texts, self.max_length, self.hparams["keep"])

    # What training reads.

    def rows_of_split(self, split: str) -> TextRows | None:
        """The texts of `train`, `validation`, `test` or `predict`; None where it has none."""
        if split not in self._rows:
            folder, rows = self.artefact.folder, None
            if split in self.artefact.manifest["splits"]:
                ids, offsets, labels = (np.load(folder / f"{split}-{n}.npy") for n in ("ids", "offsets", "labels"))
                rows = TextRows(ids, offsets, labels, self.tokenizer.pad)
            self._rows[split] = rows
        return self._rows[split]

    def setup(self, stage: str | None = None) -> None:
        """Open what was prepared and check it against the trainer."""
        self._rows = {}
        super().setup(stage)

    def make_order(self, rows: int) -> SampleOrder:
        """Texts of like length together."""
        texts = self.rows_of_split("train")
        assert texts is not None
        return BucketedOrder(self.seed, texts.lengths(), self.rows_per_step)

    def check_rows(self, rows: int) -> None:
        """DataError where there are fewer texts than one step reads."""
        if rows < self.rows_per_step:
            raise DataError(
                f"there are {rows} texts for training, fewer than the {self.rows_per_step} of one step; give more, or "
                f"lower global_batch_size to {rows} or less"
            )

    def predict_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Every text of predict once, in order; where there is none of test, or of validation."""
        return self.scoring_loader("predict") or self.test_dataloader()

    def predicted_split(self) -> str:
        """Which split `predict` reads."""
        return next((s for s in ("predict", "test") if self.rows_of_split(s) is not None), "validation")

    def samples(self, n: int) -> Iterator[Sample]:
        """The first `n` texts that a run reads, under their labels."""
        rows, labels = self.rows_of_split("train"), self.labels
        assert rows is not None
        for number in self.rows_of_step(0)[:n]:
            found = np.flatnonzero(rows.labels[number]) if self.multi_label else [rows.labels[number]]
            ids = rows.ids[rows.offsets[number] : rows.offsets[number + 1]].astype(np.int64)
            title = f"text {number}, {', '.join(labels[label] for label in found) or 'no label'}"
            yield Sample(title, ids, np.zeros(len(ids), bool))


def encode_texts(
    tokenizer: Any, texts: Sequence[str], max_length: int, keep: str = "start"
) -> tuple[list[np.ndarray], int]:
    """One token as before every document, then the text, cut to `max_length`; and how many were cut."""
    room, found, cut = max_length - 1, [], 0
    for ids in tokenizer.encode_batch(texts):
        cut += len(ids) > room
        kept = ids[:room] if keep == "start" else ids[max(0, len(ids) - room) :]
        found.append(np.concatenate([[tokenizer.begin_of_text], kept]).astype(np.int64))
    return found, cut
