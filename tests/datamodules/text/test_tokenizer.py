import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.text.patterns import GPT2_PATTERN, PATTERN
from datamodules.text.special_tokens import SPECIAL_TOKENS
from datamodules.text.tokenizer import Tokenizer, cut_for_encoding
from datamodules.text.training import train_bpe

TEXT = "The quick brown fox jumps over the lazy dog.\n    def f(x):\n        return x == 10\n" * 20


TOKENIZER = Tokenizer(train_bpe([TEXT], 310))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return TOKENIZER


@settings(max_examples=300, deadline=None)
@given(st.text())
@example("Zebra 42 \r\n\r\n\x00\t\u2028 \U0001f469\u200d\U0001f4bb e\u0301 <|endoftext|>")
@example("".join(map(chr, range(0x250))))
@example("")
def test_every_text_comes_back_exactly(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.token_bytes()[ids].sum() == len(text.encode())
    assert not set(ids) & set(TOKENIZER.special.values())


def test_all_256_bytes_are_tokens(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.token_bytes()
    assert lengths.shape == (310,)
    assert lengths.dtype == np.int64
    assert (lengths[list(tokenizer.special.values())] == 0).all()
    assert (lengths[6:262] == 1).all()
    assert (lengths[262:] >= 2).all()
    # Every byte of UTF-8 stands in one of these characters.
    every = "".join(map(chr, [*range(0x800), 0x800, 0xFFFF, *range(0x10000, 0x110000, 0x1000)]))
    assert tokenizer.decode(tokenizer.encode(every)) == every


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer, special: str) -> None:
    for text in (special, f"a{special}b", f" {special}\n{special}"):
        ids = tokenizer.encode(text)
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.decode(ids) == text
    assert tokenizer.decode([tokenizer.special[special]]) == special


def test_it_reloads_from_its_json_identically(tokenizer: Tokenizer) -> None:
    again = Tokenizer.from_str(tokenizer.to_str())
    assert again.to_str() == tokenizer.to_str()
    assert again.fingerprint == tokenizer.fingerprint
    assert again.special == tokenizer.special
    assert again.encode(f"{TEXT}<|pad|>") == tokenizer.encode(f"{TEXT}<|pad|>")
    assert (again.token_bytes() == tokenizer.token_bytes()).all()


def test_transformers_reads_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT)
    assert theirs.decode(tokenizer.encode(TEXT)) == TEXT
    assert len(theirs) == tokenizer.vocab_size


def test_a_batch_equals_its_texts_one_by_one(tokenizer: Tokenizer) -> None:
    texts = ["", TEXT, "x", TEXT * 30, "", "word " * 20_000]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.dtype == np.int64
        assert ids.tolist() == tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("pattern", [PATTERN, GPT2_PATTERN])
def test_cutting_a_long_text_does_not_change_its_tokens(shared_data: Path, pattern: str) -> None:
    novel = (shared_data / "novels" / "Burnett_Garden_1911.txt").read_text(encoding="utf-8")[:200_000]
    code = Path(json.__file__).with_name("decoder.py").read_text(encoding="utf-8")
    tokenizer = Tokenizer(train_bpe([novel, code], 1000, pattern=pattern))
    for text in (novel, code, novel.replace("\n", "\n\n\n"), "1 2, 3.\n/x\n" * 5000, novel.replace("\r\n", " ")):
        assert tokenizer.encode(text) == tokenizer.backend.encode(text, add_special_tokens=False).ids


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="a1. \n/", max_size=400), st.integers(1, 50))
def test_the_cuts_lose_nothing(text: str, size: int) -> None:
    cuts = list(cut_for_encoding(text, size))
    assert "".join(cuts) == text
    assert all(0 < len(cut) <= size for cut in cuts[:-1])


def test_a_foreign_tokenizer_gets_the_special_tokens_that_it_lacks(shared_data: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    folder = shared_data / "gpt2-tokenizer"
    backend = Backend(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert tokenizer.vocab_size == 50257 + 5
    assert tokenizer.end_of_text == 50256
    assert tokenizer.pad == 50257
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.decode(tokenizer.encode("<|endoftext|>")) == "<|endoftext|>"
    assert 50256 not in tokenizer.encode("<|endoftext|>")


def test_what_stands_before_a_text_is_one_token(tokenizer: Tokenizer) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    backend = Backend.from_str(tokenizer.to_str())
    name, own = "<|system|>", tokenizer.special["<|system|>"]  # any token that is not the end-of-text
    backend.post_processor = TemplateProcessing(single=f"{name} $A", special_tokens=[(name, own)])
    other = Tokenizer.from_str(backend.to_str())
    assert other.encode_prompt("a fox") == [own, *tokenizer.encode("a fox")]
    assert other.encode("a fox") == tokenizer.encode("a fox")
    # The end-of-text stands there anyway: said or not, it is the same tokenizer.
    backend.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    same = Tokenizer.from_str(backend.to_str())
    assert same.to_str() == tokenizer.to_str()
    assert same.encode_prompt("a fox") == tokenizer.encode_prompt("a fox") == [0, *tokenizer.encode("a fox")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no tokenizer.json"),
        ('{"version": "1.0"}', "is no tokenizer.json"),
        ('{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "decoder": null}', "no byte-level BPE"),
    ],
)
def test_what_is_no_tokenizer(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        Tokenizer.from_file(path)
    with pytest.raises(DataError, match=r"cannot read the tokenizer .*nowhere\.json"):
        Tokenizer.from_file(tmp_path / "nowhere.json")
