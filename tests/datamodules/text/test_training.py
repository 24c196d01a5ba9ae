import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers

from datamodules.errors import DataError
from datamodules.text.patterns import GPT2_PATTERN, PATTERN
from datamodules.text.special_tokens import SPECIAL_TOKENS
from datamodules.text.training import merges_of, sample_pieces, train_bpe

Pair = tuple[str, str]


def pieces(text: str, pattern: str = PATTERN) -> list[str]:
    return [piece for piece, _ in pre_tokenizers.Split(Regex(pattern), behavior="isolated").pre_tokenize_str(text)]


def plain_bpe(text: str, n_merges: int, rank: Callable[[Pair, dict[str, Any]], Any]) -> list[Pair]:
    """The algorithm as it is defined, without a heap; `rank` chooses among pairs of equal counts."""
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = Counter(byte_level.pre_tokenize_str(piece)[0][0] for piece in pieces(text, GPT2_PATTERN))
    spelled = {word: list(word) for word in words}
    counts: Counter[Pair] = Counter()

    def count(word: str, sign: int) -> None:
        for pair in pairwise(spelled[word]):
            counts[pair] += sign * words[word]

    for word in words:
        count(word, 1)
    merges = []
    for _ in range(n_merges):
        most = max(counts.values())
        best = max((pair for pair in counts if counts[pair] == most), key=lambda pair: rank(pair, alphabet))
        left, right = best
        alphabet[left + right] = len(alphabet)
        merges.append(best)
        for word in words:
            if left + right in word and best in pairwise(spelled[word]):
                count(word, -1)
                symbols, merged, at = spelled[word], [], 0
                while at < len(symbols):
                    both = symbols[at : at + 2] == [left, right]
                    merged.append(left + right if both else symbols[at])
                    at += 2 if both else 1
                spelled[word] = merged
                count(word, 1)
    return merges


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> tuple[str, list[Pair], dict[str, int]]:
    folder = shared_data / "bpe-reference"
    merges = (folder / "train-bpe-reference-merges.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = json.loads((folder / "train-bpe-reference-vocab.json").read_text(encoding="utf-8"))
    text = (folder / "corpus.en").read_text(encoding="utf-8")
    return text, [(left, right) for left, right in map(str.split, merges)], vocabulary


def test_the_reference_merges(reference: tuple[str, list[Pair], dict[str, int]]) -> None:
    """The reference breaks ties by the greater bytes, the library by the smaller ids; nothing else differs.

    So the plain algorithm with the first rule must give the reference, and with the second what we train.
    """
    text, merges, vocabulary = reference
    to_byte = {character: byte for byte, character in enumerate_alphabet()}

    def greater_bytes(pair: Pair, _: dict[str, int]) -> list[bytes]:
        return [bytes(to_byte[character] for character in part) for part in pair]

    def smaller_ids(pair: Pair, ids: dict[str, int]) -> list[int]:
        return [-ids[part] for part in pair]

    assert plain_bpe(text, len(merges), greater_bytes) == merges
    trained = train_bpe([text], len(vocabulary), pattern=GPT2_PATTERN, special_tokens=["<|endoftext|>"])
    assert merges_of(trained) == plain_bpe(text, len(merges), smaller_ids)
    ours = trained.get_vocab()
    assert set(list(vocabulary)[:257]) == {token for token, index in ours.items() if index < 257}
    assert len(set(vocabulary) & set(ours)) >= len(vocabulary) - 6  # those that the last ties let in or keep out
    assert merges_of(trained)[:31] == merges[:31]  # the first tie is the one after


def enumerate_alphabet() -> list[tuple[int, str]]:
    """(byte, character) of GPT-2's table: printable bytes stand for themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = [(byte, chr(byte)) for byte in printable] + [(byte, chr(256 + at)) for at, byte in enumerate(others)]
    assert {character for _, character in table} == set(pre_tokenizers.ByteLevel.alphabet())
    return table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 12345 o'clock", ["It", "'s", " ", "1", "2", "3", "4", "5", " o", "'clock"]),
        ("a  b", ["a", " ", " b"]),
        ("x == y", ["x", " ==", " y"]),
        ("end.\n\nNext", ["end", ".\n\n", "Next"]),
    ],
)
def test_where_text_is_cut(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_an_indentation_is_one_piece() -> None:
    found = pieces("def f():\n    if x:\n        return\n\n    y\n")
    assert "".join(found) == "def f():\n    if x:\n        return\n\n    y\n"
    assert " return" in found
    assert not [piece for piece in found if piece.isspace() and piece.strip(" \n")]
    assert len(found) == 13


def test_neither_the_order_of_texts_nor_their_grouping_matters(shared_data: Path) -> None:
    lines = (shared_data / "bpe-reference" / "corpus.en").read_text(encoding="utf-8").splitlines(keepends=True)
    first = merges_of(train_bpe(lines, 600))
    random.Random(0).shuffle(lines)
    assert merges_of(train_bpe(lines, 600)) == first


@pytest.mark.parametrize("threads", ["1", "4"])
def test_the_number_of_threads_does_not_matter(shared_data: Path, threads: str) -> None:
    path = shared_data / "bpe-reference" / "corpus.en"
    code = (
        "import sys; from datamodules.text.training import train_bpe; "
        f"print(train_bpe(open({str(path)!r}, encoding='utf-8'), 700).to_str())"
    )
    environment = os.environ | {"RAYON_NUM_THREADS": threads}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    with path.open(encoding="utf-8") as lines:
        assert done.stdout.strip() == train_bpe(lines, 700).to_str()


def test_special_tokens_come_first_then_the_bytes() -> None:
    backend = train_bpe(["ab " * 10], 256 + len(SPECIAL_TOKENS))
    assert [backend.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert merges_of(backend) == []


def test_more_tokens_than_the_text_supports() -> None:
    with pytest.raises(DataError, match=r"vocab_size is 5000, but .* no more than 2.. tokens; set vocab_size to 2"):
        train_bpe(["a short text, a short text"], 5000)
    with pytest.raises(DataError, match="vocab_size is 200, but the 256 bytes and 6 special tokens alone are 262"):
        train_bpe(["a short text"], 200)


def test_a_pair_that_occurs_once_is_not_merged() -> None:
    with pytest.raises(DataError, match="no more than 262 tokens"):
        train_bpe(["abcdefgh"], 263)


def test_the_sample_is_of_the_size_asked_and_the_same_in_any_order() -> None:
    documents = [(f"{number:032x}", f"{number} " * 100) for number in range(2000)]
    total = sum(len(text) for _, text in documents)
    sample = sorted(sample_pieces(documents, total, total // 4, seed=0))
    assert sum(map(len, sample)) == pytest.approx(total / 4, rel=0.15)
    assert sorted(sample_pieces(documents[::-1], total, total // 4, seed=0)) == sample
    assert sorted(sample_pieces(documents, total, total // 4, seed=1)) != sample
    assert list(sample_pieces(documents, total, total, seed=0)) == [text for _, text in documents]


def test_the_sample_of_one_huge_document_is_bounded_too() -> None:
    text = "".join(f"{number} words\n" for number in range(200_000))
    sample = list(sample_pieces([("0" * 32, text)], len(text), len(text) // 10, seed=0))
    assert sum(map(len, sample)) == pytest.approx(len(text) / 10, rel=0.3)
