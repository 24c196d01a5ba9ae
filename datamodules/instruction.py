"""Conversations for instruction tuning, as a LightningDataModule of use with any LightningModule."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.finetuning import STDLIB, FineTuneDataModule
from datamodules.records.conversations import conversation_of
from datamodules.records.reading import Row, read_rows
from datamodules.records.splitting import Split, SplitCounts, key_of, split_of
from datamodules.text.chat_template import CHAT_TEMPLATE
from datamodules.text.conversation import Conversation
from datamodules.text.rendering import Rendered, TrainOn, render_all
from datamodules.tokens.conversation_rows import ConversationRows, ConversationStore

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same records and tokenizer give other rows
AT_ONCE = 4096  # conversations that are encoded together
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class InstructionDataModule(FineTuneDataModule):
    """Conversations to packed rows, whose targets are what the assistant says.

    Batches are dicts of `tokens`, `targets` and `prompt_targets`, int64 [batch_size, context_length], and `documents`,
    int32: several whole conversations lie in a row and must not see each other. No conversation is cut unless
    `too_long` says so. Each optimizer step gets the same rows whatever the hardware, and a resumed run goes on where it
    ended.

    Args:
        tokenizer: path of the `tokenizer.json` of the model that is fine-tuned; on the command line it follows from
            the model's checkpoint.
        sources: files (.json, .jsonl, .csv, .tsv, .parquet, .arrow), folders, globs, `hf:owner/name[/config][:split]`;
            or `stdlib`: questions and answers about the running Python's own library. The forms of a record stand in
            datamodules/records/conversations.py.
        validation_sources: records for validation alone; then all of `sources` is for training.
        test_sources: records for `test` alone.
        validation_fraction: share of the records kept for validation; those with the same first question, or the same
            field `group`, stay together.
        train_on: targets are all of the `assistant`'s turns, the `last` of them, or `all` turns.
        too_long: `drop` conversations longer than a row and count them, or `cut` their end off.
        context_length: tokens in a row.
        global_batch_tokens: tokens in one optimizer step over all devices, a multiple of `context_length`.
        batch_size: most rows on one device at once; the largest number up to it that divides the step is taken.
        eval_batch_size: rows at once in validation, `batch_size` if not given.
        num_workers: processes that load batches.
        seed: of the order of the rows.
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
        validation_fraction: float = 0.1,
        train_on: TrainOn = "assistant",
        too_long: Literal["drop", "cut"] = "drop",
        context_length: int = 256,
        global_batch_tokens: int = 4096,
        batch_size: int = 16,
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
            rows_per_step=global_batch_tokens // max(1, context_length),
            row_tokens=context_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.save_hyperparameters(logger=False)
        check_settings(self.hparams)
        self.train_on, self.too_long, self.context_length = train_on, too_long, context_length
        self.validation_fraction = 0.0 if validation_sources else validation_fraction
        self._rows: dict[str, ConversationRows | None] = {}

    chat_template = CHAT_TEMPLATE

    # What is made, once.

    def recipe_settings(self) -> tuple[str, int, dict[str, Any]]:
        """The name and version of the rows, and the settings on which they depend."""
        settings = {
            "train_on": self.train_on,
            "too_long": self.too_long,
            "longest": self.context_length + 1,
            "validation_fraction": self.validation_fraction,
        }
        return "conversations", VERSION, settings

    def build(self, folder: Path) -> dict[str, Any]:
        """Read, render and write the conversations of each split."""
        kept: dict[Split, list[Rendered]] = {split: [] for split in SPLITS}
        counts = SplitCounts()
        for split, conversations in self._conversations(counts):
            for rendered in render_all(self.tokenizer, conversations, self.train_on):
                found = self._fitting(rendered)
                counts.add(split, "too_long" if found is None else "cut" if found is not rendered else "whole")
                if found is not None:
                    kept[split].append(found)
        if not kept["train"]:
            raise DataError(
                f"no conversation is left for training ({counts.told('train')}): raise context_length "
                f"({self.context_length}), or give other sources"
            )
        told = {}
        for split, rendered_ones in kept.items():
            if rendered_ones:
                store = ConversationStore.of(rendered_ones)
                store.save(folder, split)
                others = {what: n for what, n in counts.of(split).items() if what != "whole"}
                told[split] = {**self._measured(split, store), **others}
        return {"splits": told}

    def _conversations(self, counts: SplitCounts) -> Iterator[tuple[Split, list[Conversation]]]:
        """Conversations for the same split, some thousand at once; what stands in several splits is told of."""
        waiting: dict[Split, list[Conversation]] = {split: [] for split in SPLITS}
        order: list[Split] = ["test", "validation", "train"]  # so that train is without what the others hold
        for given in order:
            for row in self._rows_of(given):
                conversation = _conversation(row)
                question = next(turn.content for turn in conversation if turn.role == "user")
                key = key_of(str(row.fields.get("group") or question))
                split = split_of(key, self.validation_fraction) if given == "train" else given
                if counts.is_contaminated(given, " \0 ".join(turn.content for turn in conversation), row.place):
                    continue
                waiting[split].append(conversation)
                if len(waiting[split]) == AT_ONCE:
                    yield split, waiting[split]
                    waiting[split] = []
        counts.warn()
        yield from ((split, rest) for split, rest in waiting.items() if rest)

    def _rows_of(self, split: Split) -> Iterable[Row]:
        sources = self.sources.get(split)
        if sources is None:
            return ()
        if sources == STDLIB:
            from datamodules.stdlib.instructions import instructions

            return (Row(record, record["source"].__str__) for record in instructions())
        return read_rows(sources)

    def _fitting(self, rendered: Rendered) -> Rendered | None:
        """The conversation if it fits in a row; its beginning, where it is to be cut and a target is in there."""
        longest = self.context_length + 1
        if len(rendered.ids) <= longest:
            return rendered
        cut = Rendered(rendered.ids[:longest], rendered.is_target[:longest])
        return cut if self.too_long == "cut" and cut.is_target.any() else None

    def _measured(self, split: str, store: ConversationStore) -> dict[str, Any]:
        packing = store.packing(self.context_length)
        rows, inputs = len(packing.rows) - 1, int(packing.lengths.sum())
        full = inputs / (rows * self.context_length)
        targets = int(store.is_target.sum())
        log.info(
            "conversations: %s has %s of %s tokens, %s of them targets, in %s rows, %.1f %% full",
            split,
            f"{len(store):,}",
            f"{len(store.ids):,}",
            f"{targets:,}",
            f"{rows:,}",
            100 * full,
        )
        lengths = np.diff(store.offsets)
        return {
            "conversations": len(store),
            "tokens": len(store.ids),
            "targets": targets,
            "mean_length": float(lengths.mean()),
            "longest": int(lengths.max()),
            "rows": rows,
            "full": full,
        }

    # What training reads.

    def rows_of_split(self, split: str) -> ConversationRows | None:
        """The rows of `train`, `validation` or `test`; None where it has none."""
        if split not in self._rows:
            there = split in self.artefact.manifest["splits"]
            store = ConversationStore.load(self.artefact.folder, split) if there else None
            self._rows[split] = None if store is None else ConversationRows(store, self.row_tokens, self.tokenizer.pad)
        return self._rows[split]

    def setup(self, stage: str | None = None) -> None:
        """Open what was prepared and check it against the trainer."""
        self._rows = {}
        rows = self.rows_of_split("train")
        assert rows is not None
        if not rows.store.is_target.any():
            shown = self.tokenizer.decode(rows.store[0].ids[:200].tolist())
            raise DataError(
                f"nothing is to be learnt: no token of any conversation is a target (train_on is {self.train_on}); the "
                f"first one, with 0 of {len(rows.store[0].ids)} tokens to be learnt, is {shown!r}"
            )
        super().setup(stage)

    def check_rows(self, rows: int) -> None:
        """DataError where there are fewer rows than one step reads."""
        if rows < self.rows_per_step:
            raise DataError(
                f"the conversations for training fill {rows} rows of {self.context_length} tokens, fewer than the "
                f"{self.rows_per_step} of one step; give more, or lower global_batch_tokens to "
                f"{rows * self.context_length} or less"
            )

    def questions(self, n: int) -> list[tuple[list[int], list[int]]]:
        """Of `n` held-out conversations, spread evenly: the ids up to the last answer, and those of that answer."""
        rows = self.rows_of_split("test") or self.rows_of_split("validation")
        return [] if rows is None else rows.store.questions(np.arange(len(rows.store)), n)


def _conversation(row: Row) -> Conversation:
    try:
        return conversation_of(row.fields)
    except DataError as error:
        raise DataError(f"{row.place()}: {error}") from error


def check_settings(settings: Mapping[str, Any]) -> None:
    """DataError for numbers out of their range."""
    context_length, tokens = settings["context_length"], settings["global_batch_tokens"]
    for name in ("context_length", "batch_size", "base_rows"):
        if settings[name] < 1:
            raise DataError(f"{name} is {settings[name]}; it can be 1 or more")
    if not 0 <= settings["validation_fraction"] < 1:
        raise DataError(f"validation_fraction is {settings['validation_fraction']}; it can be 0 to below 1")
    if tokens < context_length or tokens % context_length:
        below = max(1, tokens // context_length) * context_length
        raise DataError(
            f"global_batch_tokens is {tokens}, not a multiple of context_length {context_length}; choose for example "
            f"{below} or {below + context_length}"
        )
