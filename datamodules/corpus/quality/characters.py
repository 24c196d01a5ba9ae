"""What each character is: one byte of flags for every code point, as Python's `str` has it."""

import numpy as np

from datamodules.corpus.quality.scan import CLOSING, LETTER, MARK, NUMBER, SPACE, TERMINAL, UNKNOWN

# What ends a sentence: ASCII, then full-width and CJK, double signs, Arabic, Indic, Armenian, Ethiopic, Khmer, Burmese.
SENTENCE_ENDS = ".!?" + "。！？．｡" + "‼‽⁇⁈⁉" + "؟۔؞" + "।॥" + "։" + "።፧፨" + "។៕" + "၊။"
# Quotes and brackets that may close after the end of a sentence.
CLOSERS = "\"')]}" + "’”»」』）"
MARKS = ".…#{-•"  # of which are ellipses, bullets and what is counted on its own

_PAGE = 256  # code points; flags are worked out for pages that are met, as all of them would take 0.4 s
_PAGES = 0x110000 // _PAGE

FLAGS = np.full((_PAGES, _PAGE), UNKNOWN, dtype=np.uint8)


def _flags_of(character: str) -> int:
    flags = SPACE * character.isspace() | LETTER * character.isalpha()
    flags |= NUMBER * (character.isalnum() and not character.isalpha())
    flags |= TERMINAL * (character in SENTENCE_ENDS) | CLOSING * (character in CLOSERS)
    return flags | MARK * (character in MARKS)


def learn(pages: np.ndarray) -> None:
    """Work out the flags of the pages of 256 code points that are set, bool [PAGES]."""
    for page in np.flatnonzero(pages):
        first = int(page) * _PAGE
        FLAGS[page] = [_flags_of(chr(code)) for code in range(first, first + _PAGE)]


learn(np.arange(_PAGES) == 0)
