"""Byte-level BPE by tiktoken: the ids of the `tokenizers` library, several times faster.

tiktoken knows no pairs, only bytes with ranks: of all neighbours whose bytes together are a token it joins those of the
lowest rank, the leftmost first. `tokenizers` joins the pairs of its list of merges, the earliest first. Both are the
same where each merge makes a token of its own out of earlier ones, and where each token, spelled out alone, is joined
to itself again: before a token's rank comes up, nothing has crossed the ends of its bytes, or it could no longer be
made of them; so what has happened inside is what happens to the token alone, and its two halves are the learnt pair.
`FastEncoder` checks this and all else that the library does around the merges, and refuses what it cannot reproduce.
"""

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tiktoken
import tokenizers

from datamodules.cores import available_cores
from datamodules.text.patterns import GPT2_PATTERN, KNOWN_PATTERNS
from datamodules.text.special_tokens import END_OF_TEXT

THREADED = 1 << 17  # characters from which threads pay: about 5 ms of work
GROUPS_PER_THREAD = 4  # so that a thread that is done early finds more to do


class UnsupportedTokenizerError(Exception):
    """Why a tokenizer cannot be reproduced: half a sentence for the log."""


class FastEncoder:
    """Encodes as the given tokenizer does, special tokens in the text being text.

    Raises:
        UnsupportedTokenizerError: where identical ids are not certain.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        content = json.loads(backend.to_str())
        pattern = _pattern(content)
        tokens = _tokens_by_rank(content)
        vocabulary = content["model"]["vocab"]
        self.ids = np.array([vocabulary[token] for token in tokens], dtype=np.int64)  # of each rank
        alone = tokenizers.Tokenizer(backend.model).encode_batch_fast(tokens, add_special_tokens=False)
        for token, index, encoding in zip(tokens, self.ids.tolist(), alone, strict=True):
            if encoding.ids != [index]:
                raise UnsupportedTokenizerError(f"its merges do not lead to its token {token!r}")
        to_byte = {character: byte for byte, character in enumerate(byte_characters())}
        ranks = {bytes(to_byte[character] for character in token): rank for rank, token in enumerate(tokens)}
        # One special token, or tiktoken would look for the empty one; it is never allowed, so never made.
        self.encoding = tiktoken.Encoding(
            "labyrinth", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
        )

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of several texts, int64 [n_tokens] each; long batches with a thread for each core.

        The time grows with n log n of the longest run without a cut and the stack with runs of blanks: for texts of
        some thousand characters, such as those of `cut_for_encoding`.
        """
        threads = available_cores()
        if threads == 1 or sum(map(len, texts)) < THREADED:
            return self._encode(texts)
        size = math.ceil(len(texts) / (threads * GROUPS_PER_THREAD))
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        with ThreadPoolExecutor(threads) as pool:  # one that outlives the call would not survive a fork
            return [ids for group in pool.map(self._encode, groups) for ids in group]

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.ids[self.encoding.encode_to_numpy(text, disallowed_special=())] for text in texts]


def byte_characters() -> list[str]:
    """The character that stands for each of the 256 bytes in a byte-level vocabulary (GPT-2's table).

    Printable bytes of Latin-1 stand for themselves, the others are given U+0100 and what follows.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(code) for code in range(0x100, 0x200))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


def _pattern(content: dict[str, Any]) -> str:
    """The pattern that cuts text into pieces, where that and byte level is all that happens before the merges."""
    if content["normalizer"] is not None:
        raise UnsupportedTokenizerError("it changes text before it encodes it")
    if not all(token["special"] for token in content["added_tokens"]):
        raise UnsupportedTokenizerError("it has added tokens that are not special")
    before = content["pre_tokenizer"] or {}
    match before.get("pretokenizers", [before]):
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            return GPT2_PATTERN
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
        ]:
            if pattern not in KNOWN_PATTERNS:
                raise UnsupportedTokenizerError(f"it cuts text by a pattern of its own, {pattern}")
            return str(pattern)
    raise UnsupportedTokenizerError("it cuts text into pieces in a way of its own")


def _tokens_by_rank(content: dict[str, Any]) -> list[str]:
    """The 256 bytes, then what each merge makes, in byte-level characters."""
    model = content["model"]
    if model["dropout"] or model["ignore_merges"]:
        raise UnsupportedTokenizerError("it applies its merges at random or not always")
    if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise UnsupportedTokenizerError("it marks the parts of words")
    tokens = byte_characters()
    known = set(tokens)
    for left, right in model["merges"]:
        token = left + right
        if token in known:
            raise UnsupportedTokenizerError(f"more than one of its merges makes {token!r}")
        if left not in known or right not in known:
            raise UnsupportedTokenizerError(f"its merge of {left!r} and {right!r} comes before they are made")
        tokens.append(token)
        known.add(token)
    rest = model["vocab"].keys() - known - {token["content"] for token in content["added_tokens"]}
    if rest or not known <= model["vocab"].keys():
        raise UnsupportedTokenizerError("its vocabulary is not the 256 bytes and what its merges make")
    return tokens
