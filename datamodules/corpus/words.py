"""Words of whole batches of documents, as spans of bytes and as hashes, without a loop over words or characters."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from datamodules.corpus.spans import text_bytes

LOAD = 8  # bytes that one step of the hash takes in
BLOCK = 1 << 12  # spans hashed at a time: what is made of them, and of the bytes between, fits into the cache
CLOSE = 12  # bytes from one word to the next, on average, up to which copying all bytes between them pays
LONG_WORD = 64  # bytes; longer ones (base64, hashes, tables) are rare and hashed one by one

# Letters and digits of ASCII in one case, and every byte of a character beyond ASCII; zero for what separates words.
_LETTERS = bytes(byte if byte >= 0x80 or chr(byte).isalnum() else 0 for byte in range(256)).lower()

# Lower case of the characters of two bytes (U+0080 to U+07FF: Latin, Greek, Cyrillic, ...), as code points.
_LOWER = np.arange(0x800)
for _code in range(0x80, 0x800):
    if len(_lower := chr(_code).lower()) == 1 and 0x80 <= ord(_lower) < 0x800:
        _LOWER[_code] = ord(_lower)

_LOW_BYTES = np.array([(1 << 8 * n) - 1 for n in range(LOAD)] + [2**64 - 1], dtype=np.uint64)  # masks of n bytes
_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd
_NGRAM = np.uint32(0x2E62A9C7)  # odd, and 3 modulo 4, so that two words in another order lose one bit at most
_HALF = np.uint64(32)  # bits


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
    as these scripts do not put spaces between words. Two words are taken as the same if their hashes are; two different
    ones collide with a probability of 2^-64.
    """
    data, documents = text_bytes(text)
    # Translating bytes is four times as fast as indexing a table of NumPy's with them.
    data = np.frombuffer(bytearray(data).translate(_LETTERS), dtype=np.uint8)
    single = _mark_beyond_ascii(data) if data.size and data.max() >= 0x80 else documents[:0]
    bounds = _bounds(data, documents if not single.size else np.concatenate((documents, single, single + 3)))
    starts, ends = bounds[::2], bounds[1::2]
    # No document begins within a word, so the bounds before it are those of whole words, but for an end just there.
    offsets = (np.searchsorted(bounds, documents) + 1) // 2
    return Words(starts, ends, hash_spans(data, starts, ends), offsets)


def _bounds(data: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """int64 [2 * words]: start and end of each run of bytes that are not zero, cut in two at the places `cuts`."""
    inside = np.zeros(data.size + 2, dtype=bool)  # byte i stands at i + 1, between two that are outside
    np.not_equal(data, 0, out=inside[1:-1])
    bounds = np.flatnonzero(inside[1:] != inside[:-1])  # between byte i - 1 and i
    cuts = cuts[inside[cuts] & inside[cuts + 1]]
    if cuts.size:  # in the middle of letters: each is an end and a start, so it stands twice
        cuts = np.unique(cuts)
        bounds = np.insert(bounds, np.repeat(np.searchsorted(bounds, cuts), 2), np.repeat(cuts, 2))
    return bounds


def _mark_beyond_ascii(data: np.ndarray) -> np.ndarray:
    """Change in place what is not ASCII: capitals to small letters, punctuation to zeros.

    Punctuation: U+0080 to U+00BF (C2 ..), U+2000 to U+206F (E2 80/81 ..), U+3000 to U+303F (E3 80 ..), U+FF00 to
    U+FF0F (EF BC 80 to 8F). Returns where the characters begin that are words: U+3040 to U+9FFF (E3 81 .. to E9 BF ..).
    """
    high = np.flatnonzero(data >= 0xC2)
    lead, second = data[high], data[np.minimum(high + 1, data.size - 1)]
    pair = high[(lead >= 0xC3) & (lead <= 0xDF)]
    if pair.size:
        lower = _LOWER[(data[pair].astype(np.int64) & 0x1F) << 6 | data[pair + 1] & 0x3F]
        data[pair], data[pair + 1] = 0xC0 | lower >> 6, 0x80 | lower & 0x3F
    two = high[lead == 0xC2]
    three = high[((lead == 0xE2) & (second <= 0x81)) | ((lead == 0xE3) & (second == 0x80))]
    wide = high[(lead == 0xEF) & (second == 0xBC)]
    wide = wide[data[wide + 2] < 0x90]
    for place in (two, three, wide):
        data[place] = data[place + 1] = 0
    for place in (three, wide):
        data[place + 2] = 0
    return high[(lead >= 0xE3) & (lead <= 0xE9) & ~((lead == 0xE3) & (second == 0x80))]


def hash_spans(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """uint64 [n]: a hash of the bytes [start, end) of each span, in order; uint8 [N] and int64 [n] each.

    Eight bytes at a time, of all spans at once.
    """
    padded = np.concatenate((data, np.zeros(LOAD, dtype=np.uint8)))
    loads = np.ndarray((data.size + 1,), dtype="<u8", buffer=padded.data, strides=(1,))  # the 8 bytes from each byte on
    lengths = ends - starts
    hashes = np.empty(len(starts), dtype=np.uint64)
    for block in range(0, len(starts), BLOCK):
        some = slice(block, block + BLOCK)
        # Bytes beyond the span count as zeros; letters are never zero, so words of different length never look alike.
        masks = _LOW_BYTES.take(lengths[some], mode="clip")
        np.bitwise_and(_first_loads(loads, starts[some]), masks, out=hashes[some])
        _scramble(hashes[some])
    more = np.flatnonzero(lengths > LOAD)
    for at in range(LOAD, LONG_WORD, LOAD):
        if not more.size:
            break
        left = lengths[more] - at
        taken = hashes[more] + (loads[starts[more] + at] & _LOW_BYTES.take(left, mode="clip"))
        _scramble(taken)
        hashes[more] = taken
        more = more[left > LOAD]
    view = padded.data
    for span in more:
        hashes[span] = xxhash.xxh3_64_intdigest(view[starts[span] : ends[span]])
    return hashes


def _first_loads(loads: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """uint64 [n]: the 8 bytes from each start on."""
    first, last = starts[0], starts[-1]
    if last - first > CLOSE * len(starts):
        return loads[starts]
    # Picking numbers that do not lie at multiples of eight is slow; it takes longer than to copy all of them first.
    return loads[first : last + 1].copy().take(starts - first, mode="clip")


def _scramble(values: np.ndarray) -> None:
    """A bijection of uint64, in place, after which each bit depends on all: two rounds of multiply and xor-shift."""
    for odd in (_STEP, _SPREAD):
        values *= odd
        values ^= values >> _HALF


def ngrams(words: Words, n: int) -> np.ndarray:
    """uint32 [words]: a hash of the n consecutive words from each word on, none across documents.

    Half the bits of the words' hashes, as they take half the time: an n-gram has the hash of one of a million others
    with a probability of 1 in 4,000.
    The last n - 1 words of a document repeat its last n-gram, which makes no difference to the set of them; where a
    document has fewer than n words, all of them have one n-gram: the whole document.
    """
    counts, first, end = words.counts, words.offsets[:-1], words.offsets[1:]
    # Every n neighbours first, those across documents too.
    own = words.hashes.astype(np.uint32)
    hashes = own.copy()
    for place in range(1, n):
        hashes *= _NGRAM
        hashes[:-place] += own[place:]
    long = counts >= n
    last = end[long] - n
    for place in range(1, n):
        hashes[last + place] = hashes[last]
    if not long.all():
        for count in range(1, n):
            short = first[counts == count]
            value = np.zeros(len(short), dtype=np.uint32)
            for place in range(count):
                value = value * _NGRAM + own[short + place]
            for place in range(count):
                hashes[short + place] = value
    return hashes
