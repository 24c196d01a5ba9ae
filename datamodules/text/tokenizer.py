"""A byte-level BPE tokenizer that gives every text back exactly, and never takes text for a special token."""

import functools
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
import xxhash

from datamodules.errors import DataError
from datamodules.text.fast_encoding import FastEncoder, UnsupportedTokenizerError
from datamodules.text.special_tokens import END_OF_TEXT, PAD, SPECIAL_TOKENS

# The library warns in each forked process (the workers of a data loader) unless this is set. Its threads are used
# before the fork alone, so the deadlock that it warns of cannot happen here.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

log = logging.getLogger(__name__)

CHUNK = 1 << 13  # characters that are encoded at once: texts are cut so that memory stays flat and threads share well
GROUP = 1 << 9  # chunks handed over together, 4 Mi characters at most: `tokenizers` takes some 100 bytes a token
# No piece of the patterns of GPT-2, GPT-4, Llama 3, Qwen and ours reaches across these places: before a single space
# between two other characters, and after a line end where the next line begins at once (GPT-4o's signs take "/" along).
BOUNDARY = re.compile(r"(?<=\S)(?= \S)|(?<=\S\n)(?=[^\s/])")


class Tokenizer:
    """Wraps a `tokenizers.Tokenizer`.

    Attributes:
        vocab_size: number of ids, special ones included; every id is below it.
        special: id of each special token by its text.
        end_of_text, pad: two of these ids.
        begin_of_text: the id that stands before every text; end_of_text, unless an imported tokenizer has its own.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        # Without this, "<|endoftext|>" in a document would become the control token itself.
        backend.encode_special_tokens = True
        backend.no_truncation()  # an imported one may be told to cut every text at a model's context
        backend.no_padding()
        self.backend = backend
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values()) + 1
        self.special: dict[str, int] = {token: vocabulary[token] for token in SPECIAL_TOKENS}
        self.end_of_text = self.special[END_OF_TEXT]
        self.pad = self.special[PAD]
        before = backend.encode("").ids  # what a post-processor, if there is one, puts before a text
        self.begin_of_text: int = before[0] if before else self.end_of_text
        if before == [self.end_of_text]:
            backend.post_processor = None  # it says what holds anyway: with and without, it is the same tokenizer

    @classmethod
    def from_str(cls, content: str) -> "Tokenizer":
        """From the JSON of `to_str`, or of any byte-level BPE `tokenizer.json`; special tokens that it lacks are added.

        Raises:
            DataError: where it is not such a tokenizer.
        """
        try:
            parsed = json.loads(content)
            model, decoder = parsed["model"]["type"], parsed["decoder"]
            backend = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"this is no tokenizer.json ({error})") from error
        if model != "BPE" or "ByteLevel" not in json.dumps(decoder):
            raise DataError(
                f"the tokenizer is no byte-level BPE (its model is {model}), so it cannot give every text back"
            )
        missing = [token for token in SPECIAL_TOKENS if backend.token_to_id(token) is None]
        if missing:
            log.info("the tokenizer lacks %s: added", ", ".join(missing))
        # All of them are told to be special anew: a token that is in the vocabulary alone would match in raw text.
        backend.add_special_tokens(
            [tokenizers.AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
        )
        return cls(backend)

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """From a `tokenizer.json`. Raises DataError where there is none or it cannot be used."""
        try:
            return cls.from_str(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the tokenizer {path} ({error}); give the path of a tokenizer.json") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def to_str(self) -> str:
        """One JSON text that holds all of it; also a `tokenizer.json` for transformers."""
        return str(self.backend.to_str())

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the JSON."""
        return xxhash.xxh3_64_hexdigest(self.to_str().encode())

    def encode(self, text: str) -> list[int]:
        """The ids of a text; never a special one."""
        return self.encode_batch([text])[0].tolist()

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text that a model is to continue: one token, as before every document, then the text."""
        return [self.begin_of_text, *self.encode(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of several texts, int64 [n_tokens] each; uses all cores.

        A text longer than 8 Ki characters is cut between words, which does not change its tokens. Where 4 Ki
        characters hold no place for it (see `BOUNDARY`), it is cut anywhere, and one token may come out as two.
        """
        chunks = [chunk for text in texts for chunk in cut_for_encoding(text)]
        parts: list[np.ndarray] = []
        for start in range(0, len(chunks), GROUP):
            parts += self._encode_chunks(chunks[start : start + GROUP])
        result, start = [], 0
        for text in texts:
            length, end = 0, start
            while length < len(text) or end == start:
                length += len(chunks[end])
                end += 1
            result.append(np.concatenate(parts[start:end]))
            start = end
        return result

    def _encode_chunks(self, chunks: Sequence[str]) -> list[np.ndarray]:
        if self._fast_encoder is not None:
            return self._fast_encoder.encode_batch(chunks)
        encodings = self.backend.encode_batch_fast(chunks, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    @functools.cached_property
    def _fast_encoder(self) -> FastEncoder | None:
        """Made when it is first needed, which takes some tenths of a second; None where the ids could differ."""
        try:
            return FastEncoder(self.backend)
        except UnsupportedTokenizerError as reason:
            log.info("text is encoded by the slower of two ways, as tiktoken cannot follow this tokenizer: %s", reason)
            return None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens written out. Bytes that are no valid UTF-8 become U+FFFD."""
        return str(self.backend.decode([int(token) for token in ids], skip_special_tokens=False))

    def starting_with(self, token: int) -> list[int]:
        """The ids whose bytes begin with those of `token`, itself included; never a special one."""
        start = str(self.backend.id_to_token(token))
        special = set(self.special.values())
        return [i for t, i in self.backend.get_vocab().items() if t.startswith(start) and i not in special]

    def token_bytes(self) -> np.ndarray:
        """int64 [vocab_size]: how many raw bytes each token stands for; 0 for the special ones."""
        added = self.backend.get_added_tokens_decoder()
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, index in self.backend.get_vocab(with_added_tokens=True).items():
            if index in added:  # stands for its own characters, or for nothing
                lengths[index] = 0 if added[index].special else len(token.encode())
            else:
                lengths[index] = len(token)  # in byte-level BPE each character of a token is one byte
        return lengths


def cut_for_encoding(text: str, size: int = CHUNK) -> Iterator[str]:
    """Pieces of at most `size` characters that tokenise like the whole."""
    start = 0
    while len(text) - start > size:
        end = start + size
        place = BOUNDARY.search(text, start + max(1, size // 2), end)
        if place is not None:
            end = place.start()
        yield text[start:end]
        start = end
    yield text[start:]
