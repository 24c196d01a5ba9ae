"""The tokenizer of a Hugging Face folder, in and out.

What stands before every text is part of a tokenizer.json there (its post-processor), and of `Tokenizer.encode_prompt`
here: exactly one token, which both must agree on.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from datamodules.errors import DataError
from datamodules.text.chat_template import CHAT_TEMPLATE
from datamodules.text.special_tokens import END, END_OF_TEXT, PAD
from datamodules.text.tokenizer import Tokenizer
from llm.errors import UserError

FILE = "tokenizer.json"
_VOCABULARIES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # of GPT-2, by two names


def read_tokenizer(folder: Path, values: dict[str, Any]) -> tuple[Tokenizer, int]:
    """The tokenizer of a folder whose config.json holds `values`, and how many ids it has of its own.

    Our special tokens that it lacks are added behind its own ids. Its end-of-text token, whatever its name, is called
    <|endoftext|> from here on: a text ends with it, and generation stops there.

    Raises:
        UserError: where there is none, or none that gives every text back.
    """
    try:
        content = _content(folder)
        backend = tokenizers.Tokenizer.from_str(content)
        if backend.token_to_id(END_OF_TEXT) is None:
            end = _end_of_text(folder, values, backend)
            content = content if end is None else _renamed(content, end)
        own = max(tokenizers.Tokenizer.from_str(content).get_vocab(with_added_tokens=True).values()) + 1
        return Tokenizer.from_str(content), own
    except DataError as error:
        raise UserError(f"{folder}: {error}") from error
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{folder}: its tokenizer cannot be read ({' '.join(str(error).split())})") from error


def _content(folder: Path) -> str:
    if (folder / FILE).is_file():
        return (folder / FILE).read_text(encoding="utf-8")
    for vocabulary, merges in _VOCABULARIES:
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            backend = tokenizers.Tokenizer(models.BPE.from_file(str(folder / vocabulary), str(folder / merges)))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            return str(backend.to_str())
    if (folder / "tokenizer.model").is_file():
        raise UserError(
            f"{folder} has its tokenizer as a SentencePiece file alone, and known are a {FILE} of byte-level BPE, or "
            "vocab.json and merges.txt"
        )
    raise UserError(f"{folder} holds no tokenizer: there is no {FILE}, and no vocab.json with merges.txt")


def _end_of_text(folder: Path, values: dict[str, Any], backend: tokenizers.Tokenizer) -> str | None:
    """The text of the token that ends a text, as the folder's files name it."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.is_file():
            token = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None and backend.token_to_id(token) is not None:
                return str(token)
    ends = values.get("eos_token_id")
    end = ends[0] if isinstance(ends, list) and ends else ends
    return backend.id_to_token(end) if isinstance(end, int) else None


def _renamed(content: str, token: str) -> str:
    """A tokenizer.json with `token` called <|endoftext|>."""
    parsed = json.loads(content)
    vocabulary = parsed["model"]["vocab"]
    if isinstance(vocabulary, dict) and token in vocabulary:
        parsed["model"]["vocab"] = {END_OF_TEXT if name == token else name: i for name, i in vocabulary.items()}
    for added in parsed["added_tokens"]:
        if added["content"] == token:
            added["content"] = END_OF_TEXT
    post_processor = json.dumps(parsed["post_processor"]).replace(json.dumps(token), json.dumps(END_OF_TEXT))
    parsed["post_processor"] = json.loads(post_processor)
    return json.dumps(parsed, ensure_ascii=False)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int, chat_template: str | None = None) -> None:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json, which put one token before every text."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    first = tokenizer.begin_of_text
    name = str(backend.id_to_token(first))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, first)]
    )
    (folder / FILE).write_text(str(backend.to_str(pretty=True)), encoding="utf-8")
    special = {"bos_token": name, "eos_token": END_OF_TEXT, "pad_token": PAD}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "add_bos_token": True,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template or CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")


def special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """What config.json says of them."""
    return {
        "bos_token_id": tokenizer.begin_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "pad_token_id": tokenizer.pad,
    }


def generation_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json: a text stops at its end, and an answer in a conversation at the end of the turn."""
    return {**special_ids(tokenizer), "eos_token_id": [tokenizer.end_of_text, tokenizer.special[END]]}
