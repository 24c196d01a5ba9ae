"""Training of the byte-level BPE tokenizer, on a seeded sample of bounded size."""

import json
from collections.abc import Iterable, Iterator, Sequence

import tokenizers
import xxhash
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from datamodules.errors import DataError
from datamodules.text.patterns import PATTERN
from datamodules.text.special_tokens import SPECIAL_TOKENS
from datamodules.text.tokenizer import cut_for_encoding

VERSION = 1  # raised when the same text gives another tokenizer
ALPHABET = 256


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = PATTERN,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> tokenizers.Tokenizer:
    """Byte-level BPE with the full alphabet of 256 bytes: ids are the special tokens, the bytes, then the merges.

    The most frequent pair is merged first; of equally frequent pairs the one with the smaller ids. A pair that occurs
    once is never merged. The result does not depend on the order of the texts or on the number of threads.
    (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; bytes as in GPT-2, Radford et al. 2019, section 2.2.)

    Raises:
        DataError: where the texts support fewer merges than `vocab_size` asks for.
    """
    smallest = ALPHABET + len(special_tokens)
    if vocab_size < smallest:
        raise DataError(
            f"vocab_size is {vocab_size}, but the {ALPHABET} bytes and {len(special_tokens)} special tokens alone "
            f"are {smallest}; choose {smallest} or more"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((piece for text in texts for piece in cut_for_encoding(text)), trainer)
    achieved = backend.get_vocab_size(with_added_tokens=True)
    if achieved < vocab_size:
        raise DataError(
            f"vocab_size is {vocab_size}, but the training text supports no more than {achieved} tokens; "
            f"set vocab_size to {achieved} or less, or give more text"
        )
    return backend


def sample_pieces(documents: Iterable[tuple[str, str]], total: int, budget: int, seed: int) -> Iterator[str]:
    """Pieces of (id, text) documents whose salted hash lies below budget / total: a sample of about `budget` bytes.

    Which pieces are taken depends on ids and seed alone, never on the order of documents or shards. All are taken
    where `total` bytes fit in the budget.
    """
    threshold = min(1.0, budget / max(1, total)) * 2.0**64
    for name, text in documents:
        for number, piece in enumerate(cut_for_encoding(text)):
            if threshold >= 2.0**64 or xxhash.xxh3_64_intdigest(f"{name}\0{number}".encode(), seed=seed) < threshold:
                yield piece


def merges_of(backend: tokenizers.Tokenizer) -> list[tuple[str, str]]:
    """The merges in the order in which they were learnt, in byte-level characters."""
    merges = json.loads(backend.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]
