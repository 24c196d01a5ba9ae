"""One pass over the bytes of documents that counts and finds what the features of quality filters are made of."""

import numpy as np

from datamodules.corpus.compiled import compiled

# Flags of a character. MARK: one that is looked at for its own sake; UNKNOWN: its flags are not worked out yet.
LETTER, NUMBER, SPACE, TERMINAL, CLOSING, MARK, UNKNOWN = 1, 2, 4, 8, 16, 32, 64
_STOPS = SPACE | TERMINAL | CLOSING | MARK  # what `_find_stops` finds of ASCII; of other characters it finds all

SHORT_LINE = 30  # characters (FineWeb)
CLOSERS_AT_MOST = 2  # quotes and brackets between the end of a sentence and the white space behind it

# The counts of a document, in the order that `scan` writes them.
COUNTED = (
    "characters", "newlines", "letters", "numbers", "hash_signs", "curly_brackets", "ellipses", "words",
    "word_characters", "letter_words", "stop_words", "sentences", "lines", "longest_line", "short_lines",
    "bullet_lines", "ellipsis_lines", "ended_lines", "paragraphs",
)  # fmt: skip

_NEWLINE, _DOT, _ELLIPSIS, _HASH_SIGN, _CURLY_BRACKET, _HYPHEN, _BULLET = 0x0A, 0x2E, 0x2026, 0x23, 0x7B, 0x2D, 0x2022

_LAST_CODE = 0x10FFFF  # of Unicode
_EMPTY = np.uint64(0xCBF29CE484222325)  # the hash before the first character (FNV-1a)
_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd
_FOLLOWS = np.uint64(0x9FB21C651E98DF25)  # odd: a word's place in its line changes what it adds to the hash
_HALF = np.uint64(32)  # bits
_BLOCK = 1024  # bytes that are looked at before what is found in them
SLOTS = 64  # for stop words, by the upper bits of their hashes
_SLOT = np.uint64(58)  # the other bits


@compiled
def scan(
    data: np.ndarray,
    documents: np.ndarray,
    flags_of: np.ndarray,
    stop_words: np.ndarray,
    counts: np.ndarray,
    word_hashes: np.ndarray,
    word_characters: np.ndarray,
    line_hashes: np.ndarray,
    line_characters: np.ndarray,
    paragraph_hashes: np.ndarray,
    paragraph_characters: np.ndarray,
    offsets: np.ndarray,
    unknown: np.ndarray,
) -> None:
    """Write what `Layout` holds; where a character has no flags yet, set its page in `unknown`: all else is void then.

    `data` uint8 [bytes] and `documents` int64 [documents + 1] are UTF-8 text, `flags_of` uint8 [pages, 256] flags by
    code points, `stop_words` uint64 [SLOTS] hashes by their upper bits. A document ends as if a newline followed.
    """
    met = np.zeros(SLOTS, dtype=np.uint8)  # stop words
    ascii_flags = flags_of[0].astype(np.int64)
    places, letters_at = np.empty(_BLOCK + 1, dtype=np.int64), np.empty(_BLOCK + 1, dtype=np.int64)
    hashes = np.empty(_BLOCK + 1, dtype=np.uint64)
    words = lines = paragraphs = 0
    offsets[:, 0] = 0
    for document in range(len(documents) - 1):
        following, last = documents[document], documents[document + 1]
        behind = 0  # bytes that begin no character, so that `at - behind` counts characters
        # Where the latest of each begins, in characters, and what there was of others before it.
        word_start = line_start = paragraph_start = following
        letters_before = 0
        line_word, first_word, first_line, first_paragraph = words, words, lines, paragraphs
        # Where the latest of each ends, in bytes: an ellipsis may be dots or one character, a sentence end in quotes.
        word_end = dots_end = ellipsis_end = terminal_end = sentence_end = -1
        dots = closers = 0  # in the latest run
        in_paragraph = ended = False
        letters = numbers = newlines = hash_signs = curly_brackets = ellipses = 0
        all_characters = letter_words = sentences = longest = short = bullet_lines = ellipsis_lines = ended_lines = 0
        hash_, line_hash = _EMPTY, np.uint64(0)
        while not ended:
            stops, following, letters, numbers, hash_ = _find_stops(
                data, following, last, letters, numbers, hash_, flags_of, ascii_flags, places, letters_at, hashes,
            )  # fmt: skip
            ended = following == last
            if ended:
                places[stops], letters_at[stops], hashes[stops] = last, letters, hash_
                stops += 1
            for stop in range(stops):
                at = places[stop]
                place = at - behind
                code, width = (_NEWLINE, 1) if at == last else _decode(data, at, last)
                flags = flags_of[code >> 8, code & 0xFF]
                behind += width - 1
                if flags & SPACE:
                    length = place - word_start
                    if length > 0:
                        word_hash = _finish(hashes[stop])
                        word_hashes[words], word_characters[words] = word_hash, length
                        words += 1
                        met[word_hash >> _SLOT] |= stop_words[word_hash >> _SLOT] == word_hash
                        all_characters += length
                        letter_words += letters_at[stop] > letters_before
                        sentences += sentence_end == at
                        word_end = at
                        line_hash = line_hash * _FOLLOWS + word_hash
                    word_start, letters_before = place + 1, letters_at[stop]
                    if code == _NEWLINE:
                        newlines += 1
                        if words > line_word:
                            characters = place - line_start
                            line_hashes[lines], line_characters[lines] = line_hash, characters
                            lines += 1
                            longest = max(longest, characters)
                            short += characters <= SHORT_LINE
                            ellipsis_lines += ellipsis_end == word_end
                            ended_lines += terminal_end == word_end
                            sentences += sentence_end != word_end
                            if not in_paragraph:
                                paragraph_start = line_start
                                paragraph_hashes[paragraphs] = 0
                                paragraphs += 1
                            paragraph_hashes[paragraphs - 1] *= _FOLLOWS
                            paragraph_hashes[paragraphs - 1] += _finish(line_hash)
                            paragraph_characters[paragraphs - 1] = place - paragraph_start
                        in_paragraph = words > line_word
                        line_word, line_start, line_hash = words, place + 1, np.uint64(0)
                    continue
                if flags & UNKNOWN:
                    unknown[code >> 8] = True
                elif code == _DOT:
                    dots = dots + 1 if dots_end == at else 1
                    dots_end = at + 1
                    ellipses += dots % 3 == 0
                    ellipsis_end = dots_end if dots >= 3 else ellipsis_end
                elif code == _ELLIPSIS:
                    ellipses += 1
                    ellipsis_end = at + width
                elif code in (_HYPHEN, _BULLET):
                    bullet_lines += words == line_word and place == word_start
                hash_signs += code == _HASH_SIGN
                curly_brackets += code == _CURLY_BRACKET
                if flags & TERMINAL:
                    terminal_end = sentence_end = at + width
                    closers = 0
                elif flags & CLOSING and sentence_end == at and closers < CLOSERS_AT_MOST:
                    sentence_end = at + width
                    closers += 1
        here = counts[document]
        # The newline that was put behind the document is not of it.
        here[0], here[1] = last - documents[document] - behind, newlines - 1
        here[2], here[3], here[4], here[5], here[6] = letters, numbers, hash_signs, curly_brackets, ellipses
        here[7], here[8], here[9], here[10] = words - first_word, all_characters, letter_words, met.sum()
        here[11], here[12], here[13], here[14] = sentences, lines - first_line, longest, short
        here[15], here[16], here[17], here[18] = bullet_lines, ellipsis_lines, ended_lines, paragraphs - first_paragraph
        met[:] = 0
        offsets[0, document + 1], offsets[1, document + 1], offsets[2, document + 1] = words, lines, paragraphs


@compiled
def _find_stops(
    data: np.ndarray,
    at: int,
    last: int,
    letters: int,
    numbers: int,
    hash_: np.uint64,
    flags_of: np.ndarray,
    ascii_flags: np.ndarray,
    places: np.ndarray,
    letters_at: np.ndarray,
    hashes: np.ndarray,
) -> tuple[int, int, int, int, np.uint64]:
    """Write the next characters that end a word or are looked at, and what there is before each; how many there are.

    All is written at every character and kept at those: where words end is hard to foresee for a processor, and a wrong
    guess costs it more than the writing.
    """
    stops, end = np.uint64(0), min(at + _BLOCK, last)
    while at < end:
        byte = data[at]
        places[stops], letters_at[stops], hashes[stops] = at, letters, hash_
        if byte < 0x80:
            flags = ascii_flags[byte]
            stops += np.uint64((flags & _STOPS) != 0)
            letters += flags & LETTER
            numbers += flags >> 1 & 1
            grown = (hash_ ^ np.uint64(byte)) * _STEP
            hash_ = _EMPTY if flags & SPACE else grown
            at += 1
            continue
        code, width = _decode(data, at, last)
        flags = int(flags_of[code >> 8, code & 0xFF])
        stops += np.uint64(1)
        letters += flags & LETTER
        numbers += flags >> 1 & 1
        hash_ = _EMPTY if flags & SPACE else (hash_ ^ np.uint64(code)) * _STEP
        at += width
    return int(stops), at, letters, numbers, hash_


@compiled
def _decode(data: np.ndarray, at: int, last: int) -> tuple[int, int]:
    """Code point and width of the character that begins at this byte."""
    code = int(data[at])
    width = 1 if code < 0xC0 else 2 if code < 0xE0 else 3 if code < 0xF0 else 4
    if width == 1 or at + width > last:
        return code, 1
    code &= 0x7F >> width
    for place in range(at + 1, at + width):
        code = code << 6 | int(data[place]) & 0x3F
    return min(code, _LAST_CODE), width


@compiled
def _finish(hash_: np.uint64) -> np.uint64:
    """A bijection after which each bit depends on all: two rounds of multiply and xor-shift."""
    hash_ ^= hash_ >> _HALF
    hash_ *= _SPREAD
    hash_ ^= hash_ >> _HALF
    hash_ *= _STEP
    return hash_ ^ hash_ >> _HALF
