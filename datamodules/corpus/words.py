"""Words of whole batches of documents, as spans of bytes and as hashes."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from datamodules.corpus.compiled import compiled
from datamodules.corpus.spans import text_bytes

# Letters and digits of ASCII in one case; zero for what separates words.
_LETTERS = np.frombuffer(bytes(byte if byte < 0x80 and chr(byte).isalnum() else 0 for byte in range(256)).lower(), "u1")

# Lower case of the characters of two bytes (U+0080 to U+07FF: Latin, Greek, Cyrillic, ...), as code points.
_LOWER = np.arange(0x800)
for _code in range(0x80, 0x800):
    if len(_lower := chr(_code).lower()) == 1 and 0x80 <= ord(_lower) < 0x800:
        _LOWER[_code] = ord(_lower)

_EMPTY = np.uint64(0xCBF29CE484222325)  # the hash before the first byte (FNV-1a)
_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd
_NGRAM = np.uint64(0x9FB21C651E98DF27)  # 3 modulo 4, so that two words in another order lose one bit at most
_HALF = np.uint64(32)  # bits
_BETWEEN, _LETTER, _ALONE = 0, 1, 2  # what a character is: of no word, of one with its neighbours, one of its own


@dataclass(frozen=True)
class Words:
    """The words of n documents: bytes [start, end) of the batch's text, in order, and a 64-bit hash of each.

    Document i has the words `offsets[i]` to `offsets[i + 1]`. `starts`, `ends`, `offsets` are int64, `hashes` uint64.
    """

    starts: np.ndarray
    ends: np.ndarray
    hashes: np.ndarray
    offsets: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64 [n]: words of each document."""
        return self.offsets[1:] - self.offsets[:-1]


def split_words(text: pa.StringArray) -> Words:
    """Runs of letters and digits in lower case; whatever else stands between them does not count.

    Beyond two bytes (U+07FF) capitals stay as they are. A character of Chinese or Japanese script is a word of its own,
    as these scripts do not put spaces between words. Punctuation beyond ASCII: U+0080 to U+00BF, U+2000 to U+207F,
    U+3000 to U+303F, U+FF00 to U+FF0F. Two words are taken as the same if their hashes are; two different ones collide
    with a probability of 2^-64.
    """
    data, documents = text_bytes(text)
    room = (data.size + len(text)) // 2 + 1  # a word takes two bytes, with what separates it
    starts, ends = np.empty((2, room), dtype=np.int64)
    hashes = np.empty(room, dtype=np.uint64)
    offsets = np.empty(len(documents), dtype=np.int64)
    count = _split(data, documents, starts, ends, hashes, offsets)
    return Words(starts[:count], ends[:count], hashes[:count], offsets)


def hash_spans(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """uint64 [n]: a hash of the bytes [start, end) of each span; uint8 [N] and int64 [n] each."""
    hashes = np.empty(len(starts), dtype=np.uint64)
    _hash(data, starts, ends, hashes)
    return hashes


def ngrams(words: Words, n: int) -> np.ndarray:
    """uint64 [words]: a hash of the n consecutive words from each word on, none across documents.

    The last n - 1 words of a document repeat its last n-gram, which makes no difference to the set of them; where a
    document has fewer than n words, all of them have one n-gram: the whole document.
    """
    hashes = np.empty(len(words.hashes), dtype=np.uint64)
    _join(words.hashes, words.offsets, n, hashes)
    return hashes


@compiled
def _next(hash_: np.uint64, byte: np.uint64) -> np.uint64:
    """The hash of what came before and a byte (FNV-1a with another factor)."""
    return (hash_ ^ byte) * _STEP


@compiled
def _finish(hash_: np.uint64) -> np.uint64:
    """A bijection after which each bit depends on all: two rounds of multiply and xor-shift."""
    hash_ ^= hash_ >> _HALF
    hash_ *= _SPREAD
    hash_ ^= hash_ >> _HALF
    hash_ *= _STEP
    return hash_ ^ hash_ >> _HALF


@compiled
def _hash(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, hashes: np.ndarray) -> None:
    for span in range(len(starts)):
        hash_ = _EMPTY
        for at in range(starts[span], ends[span]):
            hash_ = _next(hash_, np.uint64(data[at]))
        hashes[span] = _finish(hash_)


@compiled
def _look(data: np.ndarray, at: int, last: int) -> tuple[int, int]:
    """What the character beyond ASCII is that begins at this byte, and of how many bytes."""
    lead = data[at]
    width = 1 if lead < 0xC2 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if width == 1 or at + width > last:
        return _LETTER, 1
    second, third = data[at + 1], data[at + width - 1]
    if (
        lead == 0xC2
        or (lead == 0xE2 and second <= 0x81)
        or (lead == 0xE3 and second == 0x80)
        or (lead == 0xEF and second == 0xBC and third < 0x90)
    ):
        return _BETWEEN, width
    return _ALONE if 0xE3 <= lead <= 0xE9 else _LETTER, width  # U+3040 to U+9FFF


@compiled
def _split(
    data: np.ndarray,
    documents: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    hashes: np.ndarray,
    offsets: np.ndarray,
) -> int:
    """Write the words, which there is room for; how many there are."""
    count, start, hash_ = 0, 0, _EMPTY
    offsets[0] = 0
    for document in range(len(documents) - 1):
        at, last = documents[document], documents[document + 1]
        inside = False
        while at < last:
            byte = data[at]
            if byte < 0x80:
                # Written at every byte and kept at the last of a word: where words end is hard to foresee for a
                # processor, and a wrong guess costs it more than the writing.
                letter = _LETTERS[byte]
                starts[count], ends[count], hashes[count] = start, at, hash_
                count += inside & (letter == 0)
                start = start if inside else at
                hash_ = _next(hash_ if inside else _EMPTY, np.uint64(letter))
                inside = letter != 0
                at += 1
                continue
            kind, width = _look(data, at, last)
            if kind != _LETTER and inside:
                starts[count], ends[count], hashes[count] = start, at, hash_
                count += 1
                inside = False
            if kind != _BETWEEN:
                if not inside:
                    start, hash_, inside = at, _EMPTY, True
                if width == 2:
                    lower = _LOWER[np.int64(byte & 0x1F) << 6 | np.int64(data[at + 1] & 0x3F)]
                    hash_ = _next(_next(hash_, np.uint64(0xC0 | lower >> 6)), np.uint64(0x80 | lower & 0x3F))
                else:
                    for place in range(at, at + width):
                        hash_ = _next(hash_, np.uint64(data[place]))
            at += width
            if kind == _ALONE:
                starts[count], ends[count], hashes[count] = start, at, hash_
                count += 1
                inside = False
        if inside:
            starts[count], ends[count], hashes[count] = start, last, hash_
            count += 1
        offsets[document + 1] = count
    for word in range(count):
        hashes[word] = _finish(hashes[word])
    return count


@compiled
def _join(words: np.ndarray, offsets: np.ndarray, n: int, hashes: np.ndarray) -> None:
    for document in range(len(offsets) - 1):
        first, end = offsets[document], offsets[document + 1]
        count = min(n, end - first)
        hash_, leaving = np.uint64(0), np.uint64(1)  # the factor of the word that goes as the next one comes
        for word in range(first, first + count):
            hash_ = hash_ * _NGRAM + words[word]
            leaving *= _NGRAM
        for word in range(first, end - count):
            hashes[word] = hash_
            hash_ = hash_ * _NGRAM + words[word + count] - leaving * words[word]
        hashes[end - count : end] = hash_
