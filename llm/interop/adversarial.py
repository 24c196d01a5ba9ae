"""Two hundred strings on which tokenizers that look alike differ, and the comparison of two of them."""

import random
from collections.abc import Callable, Sequence

from llm.errors import UserError

N_STRINGS = 200

# Where patterns and byte tables part, between single spaces: contractions; runs of digits; scripts and marks; signs;
# pictures and odd code points; names.
_WORDS = (
    "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'Ve 'M 'LL 'D don't DON'T I'Ll it's' ''s 'sx o'clock 'tis rock'n'roll "
    "0 7 12 123 1234 12345 123456789 3.14159 1,234,567 2026-11-23 v1.2.3 0x1F 1e-10 1a2b3 a1 99x "
    "\u0663\u0664\u0665 ²³ ½ Ⅷ \u096b\u096c\u096d \uff11\uff12\uff13 "
    "a Z é ñ ß Ж Ω 中文 日本語 한국어 हिन्दी ไทย עברית العربية ﬁ ǅ ª ʰ straße naïve e\u0301 n\u0303o "
    "\u0301x \u0300\u0301 it'\u017f \u212aelvin \u0130x "
    "! ?! ... ,,, --- -> => == != && || ## // /* */ :: ;; ((( ))) [] {} <> <| |> <|end <|endoftext endoftext|> \\ "
    "\\n $x @me #tag \U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea ✓ → € £5 ° § ™ "
    "\u200d \u200b \ufeff \ufffd \u2028 \u0085 \x00 \x07 \x1b \x7f \ue000 \U0010ffff "
    "THE The the tHE CamelCase snake_case kebab-case __init__ a.b.c e.g. U.S.A. Mr. O'Neil ALLCAPS iPhone"
)
_BLANKS = (
    " ",
    "  ",
    "   ",
    "\t",
    "\t\t",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    " \n",
    "\n ",
    "  \n  ",
    "\u00a0",
    "\u3000",
    "\u2003",
    "\v",
    "\f",
)
_LINES = (
    "def main():\n    return 1",
    "x = [1, 2, 3]",
    "http://a.b/c?d=1&e=2#f",
    "  indented",
    "trailing  ",
    "\n\n\nlines\n",
)


def adversarial_strings() -> list[str]:
    """The strings: every fragment alone, then seeded mixtures of two to eight; always the same ones."""
    draw = random.Random(0)
    fragments = (*_WORDS.split(" "), *_BLANKS, *_LINES)
    strings = ["", *fragments]
    while len(strings) < N_STRINGS:
        strings.append(draw.choice(("", " ", "\n")).join(draw.choices(fragments, k=draw.randint(2, 8))))
    return strings[:N_STRINGS]


def demand_same_ids(wanted: Callable[[str], Sequence[int]], got: Callable[[str], Sequence[int]], what: str) -> None:
    """UserError where two tokenizers differ on one of the strings, with the first of them."""
    differing = [text for text in adversarial_strings() if list(wanted(text)) != list(got(text))]
    if differing:
        raise UserError(
            f"{what} gives other token ids on {len(differing)} of {N_STRINGS} strings, the first being "
            f"{differing[0]!r}: nothing was written"
        )
