"""The fast way must give the ids of the `tokenizers` library, or refuse."""

import base64
import json
import logging
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers

from datamodules.text import fast_encoding
from datamodules.text.fast_encoding import FastEncoder, UnsupportedTokenizerError, byte_characters
from datamodules.text.patterns import KNOWN_PATTERNS
from datamodules.text.special_tokens import SPECIAL_TOKENS
from datamodules.text.tokenizer import Tokenizer, cut_for_encoding
from datamodules.text.training import train_bpe

TEXT = (
    Path(__file__).read_text(encoding="utf-8")
    + "It's 1234 o'clock, WE'LL see.\n\n\t\tnaïve 漢字かな 👩\u200d💻 \r\n" * 9
)
TRAINED = Tokenizer(train_bpe([TEXT], 700))
FRAGMENTS = [
    *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "\x0b", "\0", "\x7f", "\ufeff"),
    *("def f(x):", "    return", "x==1", "->", "#!/usr", "//", '"""', "...", "https://a.b/c?d=1", "snake_case"),
    *("'s", "'S", "'ll", "'\u017f", "'", "don't", "1", "12", "12345", "٣", "½", "Ⅷ", "²"),
    *(
        "the",
        "The",
        " the",
        "naïve",
        "e\u0301",
        "漢字",
        "かな",
        "한국",
        "اللغة",
        "ไทย",
        "👩\u200d💻",
        "🇩🇪",
        "🏽",
        "\U0010ffff",
    ),
    *SPECIAL_TOKENS,
    *("<|", "|>", "<|endof", "a" * 300, "ab" * 60, "=" * 120, " " * 150),
]
TEXTS = st.one_of(
    st.text(max_size=300), st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3))).map("".join)
)


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> Tokenizer:
    folder = shared_data / "gpt2-tokenizer"
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer.from_str(backend.to_str())


def library_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """What the library gives for the same cuts."""
    chunks = list(cut_for_encoding(text))
    return [i for e in tokenizer.backend.encode_batch(chunks, add_special_tokens=False) for i in e.ids]


def byte_pairs(pattern: str) -> tokenizers.Tokenizer:
    """A tokenizer that shows where text is cut: bytes, and every pair of one with a sign of a few kinds."""
    characters = byte_characters()
    pairs = sorted({(x, s) for x in characters for s in "a1!'ĠĊ"} | {(s, x) for x in characters for s in "a1!'ĠĊ"})
    vocabulary = {token: index for index, token in enumerate([*characters, *map("".join, pairs)])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, pairs))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return backend


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("".join(FRAGMENTS))
@example("")
def test_a_trained_tokenizer(text: str) -> None:
    assert TRAINED._fast_encoder is not None
    assert TRAINED.encode(text) == library_ids(TRAINED, text)


def test_an_imported_tokenizer(gpt2: Tokenizer) -> None:
    assert gpt2._fast_encoder is not None
    assert gpt2.encode("Hello world<|endoftext|>")[:2] == [15496, 995]

    @settings(max_examples=300, deadline=None)
    @given(TEXTS)
    @example("".join(FRAGMENTS))
    def check(text: str) -> None:
        assert gpt2.encode(text) == library_ids(gpt2, text)

    check()


@pytest.mark.parametrize("pattern", KNOWN_PATTERNS)
@pytest.mark.parametrize(
    "codes",
    [
        [range(0x3100)],
        pytest.param(  # all that is assigned, and much that is not yet: the two engines bring tables of their own
            [range(0x3100, 0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE0200)], marks=pytest.mark.slow
        ),
    ],
    ids=["first", "all"],
)
def test_every_character_is_cut_alike(pattern: str, codes: list[range]) -> None:
    backend = byte_pairs(pattern)
    fast = FastEncoder(backend)
    for some in codes:
        for start in range(some.start, some.stop, 1 << 14):
            characters = map(chr, range(start, min(some.stop, start + (1 << 14))))
            texts = [f"{c}a 1{c}!{c}  {c}\n '{c} 'l{c}" for c in characters]
            expected = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
            for text, ids, theirs in zip(texts, fast.encode_batch(texts), expected, strict=True):
                assert ids.tolist() == theirs, (hex(ord(text[0])), text)


@pytest.mark.parametrize("pattern", KNOWN_PATTERNS)
def test_every_short_run_of_kinds_is_cut_alike(pattern: str) -> None:
    backend = byte_pairs(pattern)
    fast = FastEncoder(backend)
    texts = [""]
    for _ in range(5):
        texts += [text + sign for text in texts[-(7 ** (len(texts[-1]))) :] for sign in "a1! \n\r'"]
    assert len(texts) == sum(7**length for length in range(6))
    expected = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    assert [ids.tolist() for ids in fast.encode_batch(texts)] == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trained", "imported"])
def test_real_texts(shared_data: Path, gpt2: Tokenizer, kind: str) -> None:
    texts = [path.read_text(encoding="utf-8-sig") for path in sorted((shared_data / "novels").glob("*_*.txt"))]
    texts += [(shared_data / "tinystories" / "tinystories_10k.txt").read_text(encoding="utf-8")]
    rows = (shared_data / "c4-sample" / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    texts += [json.loads(row)["text"] for row in rows]
    for path in sorted(Path(json.__file__).parents[1].rglob("*.py")):
        if "site-packages" not in path.parts:
            texts.append(path.read_bytes().decode("utf-8", errors="replace"))
    tokenizer = gpt2 if kind == "imported" else Tokenizer(train_bpe(texts[::7], 8192))
    assert tokenizer._fast_encoder is not None
    chunks = [chunk for text in texts for chunk in cut_for_encoding(text)]
    ours = np.concatenate(tokenizer.encode_batch(texts))
    start = 0
    for at in range(0, len(chunks), 512):
        for encoding in tokenizer.backend.encode_batch_fast(chunks[at : at + 512], add_special_tokens=False):
            assert ours[start : start + len(encoding.ids)].tolist() == encoding.ids
            start += len(encoding.ids)
    assert start == len(ours)


@pytest.mark.parametrize("kind", ["one letter", "base64", "blanks", "line ends", "digits", "signs", "special tokens"])
def test_one_long_line_takes_linear_time(kind: str) -> None:
    size = 2_000_000
    text = {
        "one letter": "a" * size,
        "base64": base64.b64encode(random.Random(0).randbytes(size * 3 // 4)).decode(),
        "blanks": " " * size,
        "line ends": "\n" * size,
        "digits": "1" * size,
        "signs": "=" * size,
        "special tokens": "<|endoftext|>" * (size // 13),
    }[kind]
    start = time.process_time()
    ids = TRAINED.encode_batch([text])[0]
    assert time.process_time() - start < 5  # 0.1 to 0.4 s; quadratic time would be minutes
    assert TRAINED.token_bytes()[ids].sum() == len(text)
    assert ids[:20_000].tolist() == library_ids(TRAINED, text[: 1 << 17])[:20_000]


def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", TEXT, *TEXT.splitlines(keepends=True), TEXT * 40]
    assert sum(map(len, texts)) > fast_encoding.THREADED
    results = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(fast_encoding, "available_cores", lambda cores=cores: cores)
        results.append([ids.tolist() for ids in TRAINED.encode_batch(texts)])
    assert results[0] == results[1] == results[2]
    assert results[0][1] == library_ids(TRAINED, TEXT)


def test_it_pickles_with_its_tokenizer() -> None:
    again = pickle.loads(pickle.dumps(TRAINED))
    assert again.encode(TEXT) == TRAINED.encode(TEXT)


def small(merges: list[tuple[str, str]], **changes: Any) -> str:
    """The JSON of a tokenizer with these merges, and the changes by place, such as model__dropout=0.1."""
    backend = byte_pairs(KNOWN_PATTERNS[0])
    content = json.loads(backend.to_str())
    tokens = dict.fromkeys([*byte_characters(), *map("".join, merges)])
    content["model"] |= {"vocab": {token: at for at, token in enumerate(tokens)}, "merges": merges}
    content["decoder"] = json.loads(decoders.ByteLevel().__getstate__())
    for place, value in changes.items():
        *parents, last = place.split("__")
        inner = content
        for parent in parents:
            inner = inner[int(parent) if parent.isdigit() else parent]
        inner[last] = value
    return json.dumps(content)


ADDED = {"content": "abc", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
SPACES = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (small([("b", "c"), ("a", "b"), ("ab", "c")]), "its merges do not lead to its token 'abc'"),
        (small([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]), "more than one of its merges makes 'abc'"),
        (small([("ab", "c"), ("a", "b")]), "its merge of 'ab' and 'c' comes before they are made"),
        (small([("a", "b")], normalizer={"type": "Lowercase"}), "it changes text before it encodes it"),
        (
            small([("a", "b")], added_tokens=[ADDED | {"id": 257, "special": False}]),
            "added tokens that are not special",
        ),
        (small([("a", "b")], model__ignore_merges=True), "merges at random or not always"),
        (small([("a", "b")], model__dropout=0.5), "merges at random or not always"),
        (small([("a", "b")], model__end_of_word_suffix="c"), "marks the parts of words"),
        (small([("a", "b")], pre_tokenizer__pretokenizers__0__pattern={"Regex": r"\w+|\W"}), r"its own, \\w\+"),
        (small([("a", "b")], pre_tokenizer__pretokenizers__1__add_prefix_space=True), "in a way of its own"),
        (small([("a", "b")], pre_tokenizer=json.loads(SPACES.__getstate__())), "in a way of its own"),
        (small([("a", "b")], pre_tokenizer=None), "in a way of its own"),
        (small([], model__vocab={character: at for at, character in enumerate(byte_characters()[:-1])}), "256 bytes"),
    ],
)
def test_what_it_cannot_reproduce_is_refused_and_encoded_by_the_library(
    content: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UnsupportedTokenizerError, match=reason):
        FastEncoder(tokenizers.Tokenizer.from_str(content))
    with caplog.at_level(logging.INFO):
        tokenizer = Tokenizer.from_str(content)
        encoded = [tokenizer.encode(text) for text in ("abc", "abcabc xyz abc", "ABC  12")]
    assert "slower of two ways" in caplog.text
    if "dropout" not in content or '"dropout": 0.5' not in content:
        assert encoded == [library_ids(tokenizer, text) for text in ("abc", "abcabc xyz abc", "ABC  12")]


@pytest.mark.parametrize("ids_of", [lambda n: list(range(n)), lambda n: list(range(1000, 1000 - n, -1))])
def test_ids_need_not_be_in_the_order_of_merges(ids_of: Callable[[int], list[int]]) -> None:
    merges = [("a", "b"), ("ab", "c"), ("b", "c"), ("c", "a")]
    tokens = [*byte_characters(), *map("".join, merges)]
    vocabulary = dict(zip(tokens, ids_of(len(tokens)), strict=True))
    tokenizer = Tokenizer.from_str(small(merges, model__vocab=vocabulary))
    assert tokenizer._fast_encoder is not None
    for text in ("abc", "bcabcabcaabbcc", "cab abc"):
        assert tokenizer.encode(text) == library_ids(tokenizer, text)


def test_an_imported_limit_of_length_cuts_nothing_off() -> None:
    content = json.loads(TRAINED.to_str())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    assert tokenizer.encode(TEXT) == TRAINED.encode(TEXT)
    assert library_ids(tokenizer, TEXT) == TRAINED.encode(TEXT)
