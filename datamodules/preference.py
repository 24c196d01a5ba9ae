"""Answers that were judged, for preference tuning, as a LightningDataModule of use with any LightningModule."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.finetuning import STDLIB, FineTuneDataModule
from datamodules.records.pairs import Judged, judged_of
from datamodules.records.reading import Row, read_rows
from datamodules.records.splitting import Split, SplitCounts, key_of, split_of
from datamodules.samples import Sample
from datamodules.text.chat_template import CHAT_TEMPLATE
from datamodules.text.conversation import Conversation
from datamodules.text.rendering import Rendered, render_all
from datamodules.tokens.answer_rows import AnswerRows
from datamodules.tokens.conversation_rows import ConversationStore

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same records and tokenizer give other rows
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SHOWN_PLACES = 3


class PreferenceDataModule(FineTuneDataModule):
    """Pairs of a better and a worse answer, or single answers that are good or not, as padded batches.

    Batches are those of `AnswerRows` (datamodules/tokens/answer_rows.py). Each optimizer step gets the same items
    whatever the hardware, and a resumed run goes on where it ended.

    Args:
        tokenizer: path of the `tokenizer.json` of the model that is tuned; on the command line it follows from the
            model's checkpoint.
        sources: files, folders, globs, `hf:owner/name[/config][:split]`; or `stdlib`: right and wrong answers about
            the running Python's own library. The forms of a record stand in datamodules/records/pairs.py.
        validation_sources: records for validation alone; then all of `sources` is for training.
        test_sources: records for `test` alone.
        validation_fraction: share of the records kept for validation; those with the same prompt, or the same field
            `group`, stay together.
        too_long: `drop` items of which an answer with its prompt is longer than the context, or `cut` its end off.
        max_bad_fraction: share of the pairs that may have two equal sides before it is an error; they are left out.
        context_length: the most tokens of a prompt with its answer.
        global_batch_size: items in one optimizer step over all devices.
        batch_size: most items on one device at once; the largest number up to it that divides the step is taken.
        eval_batch_size: items at once in validation, `batch_size` if not given.
        num_workers: processes that load batches.
        seed: of the order of the items.
        cache_dir: where rows are kept between runs.
        base_tokens: folder of the tokens of the model's pretraining: how well it still predicts their validation text
            tells what it forgets; on the command line it is found where it is in `cache_dir`.
        base_rows: the most rows of it that are scored, spread evenly.

    Raises:
        DataError: from `prepare_data` and `setup`, for records that cannot be used: file, line, and what to do.
    """

    chat_template = CHAT_TEMPLATE

    def __init__(
        self,
        tokenizer: str | None = None,
        sources: list[str] | str = STDLIB,
        validation_sources: list[str] | str | None = None,
        test_sources: list[str] | str | None = None,
        validation_fraction: float = 0.1,
        too_long: Literal["drop", "cut"] = "drop",
        max_bad_fraction: float = 0.01,
        context_length: int = 256,
        global_batch_size: int = 32,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data",
        base_tokens: str | None = None,
        base_rows: int = 256,
    ) -> None:
        super().__init__(
            tokenizer,
            {"train": sources, "validation": validation_sources, "test": test_sources},
            cache_dir,
            base_tokens,
            base_rows,
            rows_per_step=global_batch_size,
            row_tokens=context_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.save_hyperparameters(logger=False)
        for name in ("context_length", "global_batch_size", "batch_size", "base_rows"):
            if self.hparams[name] < 1:
                raise DataError(f"{name} is {self.hparams[name]}; it can be 1 or more")
        if not 0 <= validation_fraction < 1:
            raise DataError(f"validation_fraction is {validation_fraction}; it can be 0 to below 1")
        self.too_long, self.max_bad_fraction = too_long, max_bad_fraction
        self.context_length = context_length
        self.validation_fraction = 0.0 if validation_sources else validation_fraction
        self.with_mismatched = False  # set by a module whose loss needs them
        self._rows: dict[str, AnswerRows | None] = {}

    # What is made, once.

    def recipe_settings(self) -> tuple[str, int, dict[str, Any]]:
        """The name and version of the rows, and the settings on which they depend."""
        settings = {
            "too_long": self.too_long,
            "longest": self.context_length + 1,
            "validation_fraction": self.validation_fraction,
            "max_bad_fraction": self.max_bad_fraction,
        }
        return "answers", VERSION, settings

    def build(self, folder: Path) -> dict[str, Any]:
        """Read, render and write the answers of each split."""
        counts = SplitCounts()
        judged: dict[Split, list[Judged]] = {split: [] for split in SPLITS}
        for split, one in self._judged(counts):
            judged[split].append(one)
        told = {}
        for split, ones in judged.items():
            if ones:
                measured = self._write(folder, split, ones, counts)
                told[split] = {**counts.of(split), **measured}
        if not told.get("train", {}).get("items"):
            raise DataError(
                f"no pair is left for training ({counts.told('train')}): raise context_length ({self.context_length}), "
                "or give other sources"
            )
        return {"splits": told}

    def _judged(self, counts: SplitCounts) -> Iterator[tuple[Split, Judged]]:
        order: tuple[Split, ...] = ("test", "validation", "train")  # so that train is without what the others hold
        for given in order:
            n_rows, equal = 0, []
            for row in self._rows_of(given):
                n_rows += 1
                try:
                    one = judged_of(row.fields)
                except DataError as error:
                    if "are equal" not in str(error):
                        raise DataError(f"{row.place()}: {error}") from error
                    equal.append(row.place)
                    continue
                prompt = " \0 ".join(turn.content for turn in one.prompt)
                split = split_of(key_of(str(row.fields.get("group") or prompt)), self.validation_fraction)
                sides = " \0 ".join(turn.content for side in one[1:] for turn in side or ())
                if not counts.is_contaminated(given, f"{prompt} \0 {sides}", row.place):
                    yield (split if given == "train" else given), one
            if equal:
                places = "; ".join(place() for place in equal[:SHOWN_PLACES])
                told = f"{len(equal):,} of {n_rows:,} pairs have equal sides, so neither is better: {places}"
                if len(equal) > self.max_bad_fraction * n_rows:
                    raise DataError(
                        f"{told}; drop these records, or raise max_bad_fraction ({self.max_bad_fraction:g})"
                    )
                log.warning("left out: %s", told)
        counts.warn()

    def _rows_of(self, split: Split) -> Iterable[Row]:
        sources = self.sources.get(split)
        if sources is None:
            return ()
        if sources == STDLIB:
            from datamodules.stdlib.preferences import preferences

            return (Row(record, record["source"].__str__) for record in preferences())
        return read_rows(sources)

    def _write(self, folder: Path, split: str, judged: list[Judged], counts: SplitCounts) -> dict[str, Any]:
        """Write the answers of a split, and which of them belong together."""
        sides: list[Conversation] = [[*one.prompt, *side] for one in judged for side in one[1:] if side is not None]
        rendered = iter(render_all(self.tokenizer, sides, "last"))
        kept: list[Rendered] = []
        items: list[tuple[int, int]] = []
        for one in judged:
            found = [None if side is None else self._fitting(next(rendered)) for side in one[1:]]
            if any(side is not None and its is None for side, its in zip(one[1:], found, strict=True)):
                counts.add(split, "too_long")
                continue
            places = []
            for its in found:
                places.append(-1 if its is None else len(kept))
                kept += [] if its is None else [its]
            items.append((places[0], places[1]))
        mismatched = []
        for number, item in enumerate(items):
            following = items[(number + 1) % len(items)]
            mismatched.append(len(kept))
            kept.append(self._mismatched(kept[max(item)], kept[max(following)]))
        store = ConversationStore.of(kept)
        store.save(folder, split)
        np.save(folder / f"{split}-items.npy", np.array(items, np.int64).reshape(-1, 2))
        np.save(folder / f"{split}-mismatched.npy", np.array(mismatched, np.int64))
        pairs = sum(min(item) >= 0 for item in items)
        log.info("answers: %s has %s items, %s of them pairs", split, f"{len(items):,}", f"{pairs:,}")
        return {"items": len(items), "pairs": pairs, "tokens": len(store.ids), "targets": int(store.is_target.sum())}

    def _fitting(self, rendered: Rendered) -> Rendered | None:
        longest = self.context_length + 1
        if len(rendered.ids) <= longest:
            return rendered
        cut = Rendered(rendered.ids[:longest], rendered.is_target[:longest])
        return cut if self.too_long == "cut" and cut.is_target.any() else None

    def _mismatched(self, asked: Rendered, answered: Rendered) -> Rendered:
        """The prompt of one with the answer of another, as long as a row at most."""
        prompt, answer = asked.ids[~asked.is_target], answered.ids[answered.is_target]
        ids = np.concatenate([prompt, answer])[: self.context_length + 1]
        return Rendered(ids, np.arange(len(ids)) >= len(prompt))

    # What training reads.

    def rows_of_split(self, split: str) -> AnswerRows | None:
        """The items of `train`, `validation` or `test`; None where it has none."""
        if split not in self._rows:
            folder, rows = self.artefact.folder, None
            if split in self.artefact.manifest["splits"]:
                store = ConversationStore.load(folder, split)
                items = np.load(folder / f"{split}-items.npy")
                mismatched = np.load(folder / f"{split}-mismatched.npy") if self.with_mismatched else None
                rows = AnswerRows(store, items, mismatched, self.tokenizer.pad)
            self._rows[split] = rows
        return self._rows[split]

    def questions(self, n: int) -> list[tuple[list[int], list[int]]]:
        """The prompts of `n` held-out items, spread evenly, and their chosen answers, as ids."""
        rows = self.rows_of_split("test") or self.rows_of_split("validation")
        if rows is None:
            return []
        chosen = rows.items[:, 0]
        return rows.store.questions(chosen[chosen >= 0], n)

    def setup(self, stage: str | None = None) -> None:
        """Open what was prepared and check it against the trainer."""
        self._rows = {}
        super().setup(stage)

    def check_rows(self, rows: int) -> None:
        """DataError where there are fewer items than one step reads."""
        if rows < self.rows_per_step:
            raise DataError(
                f"there are {rows} items for training, fewer than the {self.rows_per_step} of one step; give more, or "
                f"lower global_batch_size to {rows} or less"
            )

    def samples(self, n: int) -> Iterator[Sample]:
        """The answers of the first items that a run reads, `n` of them."""
        rows = self.rows_of_split("train")
        assert rows is not None
        for item in self.rows_of_step(0)[:n]:
            for name, number in zip(("chosen", "rejected"), rows.items[item], strict=True):
                if number >= 0:
                    yield Sample(f"item {item}, {name}", *rows.store[number])
