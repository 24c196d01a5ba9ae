"""From a corpus to token stores: documents, tokenizer and tokens, each made once and reused by fingerprint."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from datamodules.artefacts import Artefact, Recipe, find, make
from datamodules.corpus.decisions import TRAIN, VALIDATION
from datamodules.corpus.pipeline import Pipeline, Plan
from datamodules.corpus.shards import read_batches, shards_of
from datamodules.errors import DataError
from datamodules.prepared import TOKENIZER_FILE, Prepared
from datamodules.text.tokenizer import Tokenizer
from datamodules.text.training import PATTERN, sample_pieces, train_bpe
from datamodules.text.training import VERSION as TRAINING_VERSION
from datamodules.tokens.encoding import VERSION as ENCODING_VERSION
from datamodules.tokens.encoding import write_store
from datamodules.tokens.packing import VERSION as PACKING_VERSION
from datamodules.tokens.packing import Packing, pack
from datamodules.tokens.store import TokenStore

log = logging.getLogger(__name__)

MANY_TOKENS = 1_000_000  # of a vocabulary; up to here the trainer itself says how many the text supports
SHARD_TOKENS = 100_000_000  # 200 MB of a usual vocabulary: what one request of a bucket should bring
SAMPLE_SEED = 0  # fixed rather than the run's seed: runs of several seeds share one tokenizer


@dataclass(frozen=True)
class Preparation:
    """A corpus, and how it becomes tokens.

    The tokenizer is the file `tokenizer` where one is given, else it is trained to `vocab_size` on about
    `tokenizer_sample_bytes` of the train split. With `packed_length`, the documents of train are packed into rows of as
    many tokens (see datamodules/tokens/packing.py). A split of more than `shard_tokens` lies in several files.
    """

    corpus: Pipeline
    vocab_size: int
    tokenizer: str | None
    tokenizer_sample_bytes: int
    cache_dir: Path
    packed_length: int | None = None
    shard_tokens: int = SHARD_TOKENS

    def recipes(self) -> tuple[Plan, Recipe | None, Recipe]:
        """Of the documents, of the tokenizer (None where a file is given), and of the tokens."""
        plan = self.corpus.plan(self.cache_dir)
        trained = None
        if self.tokenizer is None:
            settings = {
                "vocab_size": self.vocab_size,
                "pattern": PATTERN,
                "sample_bytes": self.tokenizer_sample_bytes,
                "sample_seed": SAMPLE_SEED,
                "tokenizers": tokenizers.__version__,
            }
            trained = Recipe("tokenizer", TRAINING_VERSION, settings, {"documents": plan.recipe.fingerprint})
        identity = trained.fingerprint if trained else Tokenizer.from_file(str(self.tokenizer)).fingerprint
        inputs = {"documents": plan.recipe.fingerprint, "tokenizer": identity}
        return plan, trained, Recipe("tokens", ENCODING_VERSION, {"shard_tokens": self.shard_tokens}, inputs)

    def _packing(self, tokens: Recipe) -> Recipe:
        return Recipe("packing", PACKING_VERSION, {"length": self.packed_length}, {"tokens": tokens.fingerprint})

    def prepare(self) -> dict[str, Any]:
        """Make what is missing and tell of the result: counts, seconds, folders, and whether all of it was reused."""
        start = time.perf_counter()
        plan, trained, tokens = self.recipes()
        documents = plan.prepare()
        made = [documents]
        if trained is not None:
            made.append(make(trained, self.cache_dir, lambda folder: self._train(folder, documents)))
        path = self._tokenizer_path(trained)
        tokenizer = Tokenizer.from_file(path)
        stores = make(tokens, self.cache_dir, lambda folder: self._encode(folder, documents, tokenizer))
        made.append(stores)
        if self.packed_length is not None:
            made.append(make(self._packing(tokens), self.cache_dir, lambda folder: self._pack(folder, stores)))
        return {
            "documents": documents.manifest["counts"],
            "split": documents.manifest["split"],
            **stores.manifest["splits"],
            "vocab_size": tokenizer.vocab_size,
            "tokenizer": str(path),
            "folder": str(stores.folder),
            "documents_folder": str(documents.folder),
            "fingerprint": tokens.fingerprint,
            "reused": all(artefact.reused for artefact in made),
            "seconds": round(time.perf_counter() - start, 3),
        }

    def is_complete(self) -> bool:
        """Whether there is nothing left to make."""
        tokens = self.recipes()[2]
        wanted = [tokens] if self.packed_length is None else [tokens, self._packing(tokens)]
        return all(find(recipe, self.cache_dir) is not None for recipe in wanted)

    def load(self) -> Prepared:
        """Open what `prepare` made, found by its fingerprint alone.

        Raises:
            DataError: where it is not there or damaged.
        """
        _, trained, tokens = self.recipes()
        stores = find(tokens, self.cache_dir)
        if stores is None or (trained is not None and find(trained, self.cache_dir) is None):
            raise DataError(
                f"there is no complete {tokens.name} in {self.cache_dir}: call prepare_data() first, "
                "and leave the inputs as they are between preparing and training"
            )
        fingerprint, packing = tokens.fingerprint, None
        if self.packed_length is not None:
            packed = find(self._packing(tokens), self.cache_dir)
            if packed is None:
                raise DataError(f"there is no complete packing in {self.cache_dir}: call prepare_data() first")
            fingerprint, packing = self._packing(tokens).fingerprint, Packing.load(packed.folder, TRAIN)
        train, validation = (stores.folder / f"{split}.bin" for split in (TRAIN, VALIDATION))
        return Prepared(
            fingerprint,
            stores.folder,
            Tokenizer.from_file(self._tokenizer_path(trained)),
            TokenStore(train),
            TokenStore(validation) if validation.exists() else None,
            packing,
        )

    def _tokenizer_path(self, trained: Recipe | None) -> Path:
        return self.cache_dir / trained.name / TOKENIZER_FILE if trained else Path(str(self.tokenizer))

    def _train(self, folder: Path, documents: Artefact) -> dict[str, Any]:
        total = documents.manifest["counts"]["kept"][TRAIN]["bytes"]
        if self.vocab_size > max(MANY_TOKENS, total):  # the trainer would take memory for each of them at once
            raise DataError(
                f"vocab_size is {self.vocab_size:,}, but the training text has only {total:,} bytes; set vocab_size to "
                "far less, or give more text"
            )
        pieces = sample_pieces(_named_texts(documents), total, self.tokenizer_sample_bytes, SAMPLE_SEED)
        backend = train_bpe(pieces, self.vocab_size)
        (folder / TOKENIZER_FILE).write_text(backend.to_str(), encoding="utf-8")
        log.info(
            "tokenizer: %d tokens, trained on about %s of %s bytes",
            self.vocab_size,
            f"{min(total, self.tokenizer_sample_bytes):,}",
            f"{total:,}",
        )
        return {}

    def _encode(self, folder: Path, documents: Artefact, tokenizer: Tokenizer) -> dict[str, Any]:
        (folder / TOKENIZER_FILE).write_text(
            tokenizer.to_str(), encoding="utf-8"
        )  # with it the folder is all that is needed
        splits = {}
        for split in (TRAIN, VALIDATION):
            shards = shards_of(documents.folder, split)
            splits[split] = {"documents": 0, "tokens": 0, "text_bytes": 0, "bytes_per_token": 0.0}
            if shards:
                counts = splits[split] = write_store(
                    folder / f"{split}.bin", tokenizer, read_batches(shards), self.shard_tokens
                )
                log.info(
                    "tokens: %s has %s tokens in %s documents, %.2f bytes a token",
                    split,
                    f"{counts['tokens']:,}",
                    f"{counts['documents']:,}",
                    counts["bytes_per_token"],
                )
        return {"splits": splits}

    def _pack(self, folder: Path, stores: Artefact) -> dict[str, Any]:
        assert self.packed_length is not None
        store = TokenStore(stores.folder / f"{TRAIN}.bin")
        packing = pack(store.offsets, self.packed_length)
        packing.save(folder, TRAIN)
        rows, used = len(packing.rows) - 1, int(packing.lengths.sum())
        share = used / (rows * self.packed_length) if rows else 0.0
        log.info("packing: %s documents in %s rows, %.2f %% full", f"{store.n_documents:,}", f"{rows:,}", 100 * share)
        return {"rows": rows, "tokens": used, "full": round(share, 6)}


def _named_texts(documents: Artefact) -> Iterator[tuple[str, str]]:
    for batch in read_batches(shards_of(documents.folder, TRAIN)):
        yield from zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True)
