"""What each character of a batch is: one byte of flags for every byte of its UTF-8 text."""

import numpy as np

SPACE, LETTER, NUMBER, TERMINAL, CLOSING, CONTINUATION = 1, 2, 4, 8, 16, 32

# What ends a sentence: ASCII, then full-width and CJK, double signs, Arabic, Indic, Armenian, Ethiopic, Khmer, Burmese.
SENTENCE_ENDS = ".!?" + "。！？．｡" + "‼‽⁇⁈⁉" + "؟۔؞" + "।॥" + "։" + "።፧፨" + "។៕" + "၊။"
# Quotes and brackets that may close after the end of a sentence.
CLOSERS = "\"')]}" + "’”»」』）"

ASCII = 0x80
LAST_PLANE = 0x40000  # no letter, number or space has a code point beyond


def _flags_of(character: str) -> int:
    flags = SPACE * character.isspace() | LETTER * character.isalpha()
    flags |= NUMBER * (character.isalnum() and not character.isalpha())
    return flags | TERMINAL * (character in SENTENCE_ENDS) | CLOSING * (character in CLOSERS)


_PAGE = 256  # code points; flags are worked out for pages that are met, as all of them would take 0.4 s
_flags = np.zeros(LAST_PLANE, dtype=np.uint8)
_known = np.zeros(LAST_PLANE // _PAGE, dtype=bool)


def _flags_of_code_points(codes: np.ndarray) -> np.ndarray:
    """uint8 [n]: the flags of characters by their code points, int64 [n]."""
    codes = np.minimum(codes, LAST_PLANE - 1)
    met = np.bincount(codes // _PAGE, minlength=len(_known)) > 0
    for page in np.flatnonzero(met & ~_known):
        first = int(page) * _PAGE
        _flags[first : first + _PAGE] = [_flags_of(chr(code)) for code in range(first, first + _PAGE)]
        _known[page] = True
    return _flags[codes]


_FLAGS_OF_BYTES = bytes(_flags_of(chr(code)) for code in range(ASCII)) + bytes([CONTINUATION] * ASCII)


def character_flags(data: np.ndarray) -> np.ndarray:
    """uint8 [bytes]: the flags of each character at its first byte, CONTINUATION at its other bytes.

    All bytes of a space also have SPACE. `data` is the UTF-8 text, uint8. Spaces, letters and numbers are those of
    Python's `str.isspace`, `isalpha` and `isalnum`.
    """
    # bytes.translate looks up a byte in a quarter of the time of an index into an array.
    flags = np.frombuffer(data.tobytes().translate(_FLAGS_OF_BYTES), dtype=np.uint8)
    first = np.flatnonzero(data >= 0xC2)
    if not first.size:
        return flags
    flags = flags.copy()
    flags[first] = of_first = _flags_of_code_points(_code_points(data, first))
    spaces = first[of_first & SPACE != 0]
    flags[spaces + 1] |= SPACE
    flags[spaces[data[spaces] >= 0xE0] + 2] |= SPACE
    return flags


def character_widths(data: np.ndarray, first: np.ndarray) -> np.ndarray:
    """int64 [n]: bytes of the characters that begin at the bytes `first`."""
    lead = data[first]
    return 1 + (lead >= 0xC2).astype(np.int64) + (lead >= 0xE0) + (lead >= 0xF0)


def _code_points(data: np.ndarray, first: np.ndarray) -> np.ndarray:
    """int64 [n]: the characters of two to four bytes that begin at the bytes `first`."""
    lead = data[first].astype(np.int64)
    code = (lead & 0x1F) << 6 | data[first + 1] & 0x3F
    for width, from_lead, bits in ((3, 0xE0, 0x0F), (4, 0xF0, 0x07)):
        longer = np.flatnonzero(lead >= from_lead)
        if not longer.size:
            break
        value = lead[longer] & bits
        for place in range(1, width):
            value = value << 6 | data[first[longer] + place] & 0x3F
        code[longer] = value
    return code
