"""Text for pretraining, as a LightningDataModule of use with any LightningModule."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.checks import check_settings
from datamodules.corpus.curation import Curation
from datamodules.corpus.engine import Engine
from datamodules.corpus.pipeline import Pipeline
from datamodules.corpus.reading.readers import EncodingErrors
from datamodules.errors import DataError
from datamodules.preparation import SHARD_TOKENS, Preparation
from datamodules.prepared import Prepared, open_tokens
from datamodules.steps import StepDataModule
from datamodules.text.tokenizer import Tokenizer
from datamodules.tokens.ahead import FetchAhead
from datamodules.tokens.batches import Rows, StepBatches
from datamodules.tokens.packed_rows import PackedRows
from datamodules.tokens.sample_order import SampleOrder
from datamodules.tokens.statistics import count_bigrams, count_ngrams
from datamodules.tokens.store import ShardedTokens

log = logging.getLogger(__name__)


class PretrainDataModule(StepDataModule):
    """Raw text to batches for next-token prediction; the signature is the schema of the configuration.

    Batches are dicts of `tokens` and `targets`, int64 [batch_size, context_length], targets shifted by one, -100 where
    there is none. Each optimizer step of the run gets the same `global_batch_tokens` tokens whatever the number of
    devices, nodes and workers and the micro-batch; `setup` sets `trainer.accumulate_grad_batches` to that end.
    A resumed run (`fit(ckpt_path=...)`) goes on exactly where the last whole step ended.

    Args:
        sources: `stdlib` (the running Python's own library), files, folders, globs, `hf:owner/name[/config][:split]`.
        validation_sources: texts for validation alone; then all of `sources` is for training.
        text_field: the field of a row that is the document (jsonl, csv, tsv, parquet, arrow, data sets); `a.b` nests.
        validation_fraction: share of the text that is kept for validation; 0 for none.
        encoding_errors: `replace` invalid UTF-8 by U+FFFD and count it, or be `strict` and stop there.
        max_bad_fraction: share of rows of one file that may be unusable before it is an error.
        curation: what is done to documents: languages, quality filters, near-duplicates, and more.
        engine: where documents are prepared: `local`, or `ray` on a Ray cluster (extra `[ray]`).
        workers: processes that prepare documents; one a core if not given.
        vocab_size: size of the vocabulary to train, the six special tokens included; not used with `tokenizer`.
        tokenizer: path of a byte-level BPE `tokenizer.json` to use rather than train one.
        tokenizer_sample_bytes: the tokenizer is trained on a random sample of the text of about this size.
        tokens: a folder of tokens that `prepare` has made, or its URL (`s3://...`), in place of `sources` and all else
            that makes tokens of text.
        shard_tokens: most tokens in one file of those that are made.
        cache_bytes: most bytes that files of a URL take in `cache_dir`.
        shuffle_window: mix rows no farther than within so many, which then lie in few files; None: all rows.
        context_length: tokens in a row.
        packing: `concat` cuts the running text into rows; `best_fit` puts whole documents into rows.
        document_mask: let no token see another document of its row; batches then have `documents`, int32 [B, T].
        global_batch_tokens: tokens in one optimizer step over all devices, a multiple of `context_length`.
        batch_size: most rows on one device at once; the largest number up to it that divides the step is taken.
        eval_batch_size: rows at once in validation, `batch_size` if not given.
        num_workers: processes that load batches; 0 is enough for text (the loader makes > 10^8 tokens a second).
        seed: of the order of the rows.
        cache_dir: where documents, tokenizer and tokens are kept between runs.

    Raises:
        DataError: from `prepare_data` and `setup`, for input that cannot be used.
    """

    def __init__(
        self,
        sources: list[str] | str = "stdlib",
        validation_sources: list[str] | str | None = None,
        text_field: str = "text",
        validation_fraction: float = 0.05,
        encoding_errors: EncodingErrors = "replace",
        max_bad_fraction: float = 0.01,
        curation: Curation | None = None,
        engine: Literal["local", "ray"] = "local",
        workers: int | None = None,
        vocab_size: int = 2048,
        tokenizer: str | None = None,
        tokenizer_sample_bytes: int = 50_000_000,
        tokens: str | None = None,
        shard_tokens: int = SHARD_TOKENS,
        cache_bytes: int = 50_000_000_000,
        shuffle_window: int | None = None,
        context_length: int = 256,
        packing: Literal["concat", "best_fit"] = "concat",
        document_mask: bool = False,
        global_batch_tokens: int = 4096,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data",
    ) -> None:
        rows_per_step = global_batch_tokens // max(1, context_length)
        super().__init__(rows_per_step, context_length, batch_size, eval_batch_size, num_workers, seed)
        self.save_hyperparameters(ignore=["curation"], logger=False)
        if curation is not None:  # checkpoints hold primitives alone, or they could not be opened safely
            self.hparams["curation"] = asdict(curation)
        check_settings(self.hparams)
        self.preparation = Preparation(
            Pipeline(
                sources,
                validation_sources,
                text_field,
                validation_fraction,
                encoding_errors,
                max_bad_fraction,
                curation or Curation(),
                engine=Engine(engine, workers),
            ),
            vocab_size,
            tokenizer,
            tokenizer_sample_bytes,
            Path(cache_dir).expanduser(),
            packed_length=context_length if packing == "best_fit" else None,
            shard_tokens=shard_tokens,
        )
        self.tokens, self.cache_bytes, self.shuffle_window = tokens, cache_bytes, shuffle_window
        self.document_mask = document_mask
        self.context_length = context_length
        self._vocab_size = vocab_size if tokenizer is None and tokens is None else None
        self._prepared: Prepared | None = None
        self._ahead: FetchAhead | None = None

    # What others may ask.

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary; known before anything is prepared."""
        if self._vocab_size is None:
            given = self.preparation.tokenizer
            self._vocab_size = (self.tokenizer if given is None else Tokenizer.from_file(given)).vocab_size
        return self._vocab_size

    @property
    def prepared(self) -> Prepared:
        """Tokenizer and token stores; opened at the first call after `prepare_data`."""
        if self._prepared is None:
            made = self.preparation
            self._prepared = (
                made.load() if self.tokens is None else open_tokens(self.tokens, made.cache_dir, self.cache_bytes)
            )
        return self._prepared

    @property
    def tokenizer(self) -> Tokenizer:
        return self.prepared.tokenizer

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for inputs, settings, tokenizer and code that made the tokens."""
        return self.prepared.fingerprint

    def count_bigrams(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of successive tokens of train, int64 [2, N], and how often each comes, int64 [N]."""
        return count_bigrams(self.prepared.train)

    def count_ngrams(self, order: int, vocab_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Sequences of up to `order` tokens in train, and how often each comes (datamodules/tokens/statistics.py)."""
        return count_ngrams(self.prepared.train.tokens[:], order, vocab_size)

    # What Lightning calls.

    def prepare_data(self) -> None:
        """Make documents, tokenizer and tokens, or reuse them. Lightning calls it on one process of each node."""
        if self.tokens is not None:
            return
        if self.trainer is not None and self.trainer.world_size > 1 and not self.preparation.is_complete():
            log.warning(
                "preparing the data while %d processes wait; for a large corpus call prepare_data() in a job of one "
                "process first",
                self.trainer.world_size,
            )
        self.prepare()

    def prepare(self) -> dict[str, Any]:
        """Like `prepare_data`, and tells of the result: counts of documents, bytes and tokens, seconds, folders."""
        if self.tokens is not None:
            raise DataError(f"there is nothing to prepare: tokens {self.tokens} are made already")
        self._prepared = None
        return self.preparation.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Open what was prepared and check it against the trainer."""
        prepared, fraction = self.prepared, self.preparation.corpus.validation_fraction
        if stage in ("fit", None) and prepared.validation is None and self.tokens is None and fraction > 0:
            self._order()
            raise DataError("validation has no text; give it more, raise validation_fraction, or set it to 0 for none")
        super().setup(stage)

    def step_batches(self, order: SampleOrder) -> StepBatches:
        """The rows of each micro-batch of this rank; what a URL must bring for them is fetched ahead."""
        sampler = super().step_batches(order)
        self._fetch_ahead(sampler)
        return sampler

    def teardown(self, stage: str | None = None) -> None:
        """Fetch no more."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def is_open(self) -> bool:
        """Whether the tokens have been opened."""
        return self._prepared is not None

    # How it is done.

    def rows_of_split(self, split: str) -> Rows | PackedRows | None:
        """The rows of `train` or `validation`; None where there are none, as in `test`."""
        prepared, tokenizer = self.prepared, self.tokenizer
        if split == "train" and prepared.packing is not None:
            return PackedRows(
                prepared.train, prepared.packing, self.context_length, tokenizer.pad, documents=self.document_mask
            )
        store = {"train": prepared.train, "validation": prepared.validation}.get(split)
        if store is None:
            return None
        end = tokenizer.end_of_text if self.document_mask else None
        return Rows(store, self.context_length, tokenizer.pad, end)

    def make_order(self, rows: int) -> SampleOrder:
        """The order in which a run reads `rows` rows: all of them mixed, or within windows."""
        shard = getattr(self.prepared.train, "shard_tokens", 0) or None
        block = None if shard is None else max(1, shard // self.context_length)
        return SampleOrder(self.seed, rows, self.rows_per_step, self.shuffle_window, block)

    def check_rows(self, rows: int) -> None:
        """DataError where there is less text than one step reads."""
        if rows < self.rows_per_step:
            raise DataError(
                f"the training text has {self.prepared.train.n_tokens} tokens, {rows} rows of {self.context_length}, "
                f"fewer than the {self.rows_per_step} rows of one step; give more text, or lower global_batch_tokens "
                f"to {rows * self.context_length} or less"
            )

    def _fetch_ahead(self, sampler: StepBatches) -> None:
        """Let a thread fetch what the next steps read, where the tokens come from a URL."""
        stored = self.prepared.train.tokens
        if not isinstance(stored, ShardedTokens) or self.tokens is None or "://" not in self.tokens:
            return
        self.teardown()
        length = self.context_length
        files = self.cache_bytes // (stored.shard_tokens * stored.dtype.itemsize) // 2  # half, for other processes
        self._ahead = FetchAhead(stored, lambda step: sampler.rows_of(step) * length, length + 1, sampler.step, files)
        self._ahead.start()
