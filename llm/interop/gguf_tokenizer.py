"""The tokenizer of a GGUF file: llama.cpp knows no pattern but those of its own list, each by a name ("pre").

A name that is nearly right gives other ids for some texts and says nothing, so a name is given here only to a pattern
that cuts all of the awkward strings as llama.cpp does under that name (tests/llm/interop/test_gguf.py).
"""

import json
from typing import Any

import gguf
import tokenizers

from datamodules.text.patterns import GPT2_PATTERN, GPT4_PATTERN, PATTERN
from datamodules.text.special_tokens import END
from datamodules.text.tokenizer import Tokenizer
from llm.errors import UserError

_NAMES = {GPT2_PATTERN: "gpt-2", GPT4_PATTERN: "llama-bpe", PATTERN: "qwen2"}


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, vocab_size: int, chat_template: str) -> None:
    """Write vocabulary, merges, special ids and the name of the pattern; `vocab_size` is that of the embedding.

    Raises:
        UserError: where llama.cpp would give other ids.
    """
    content = json.loads(tokenizer.to_str())
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(pre_name(content))
    tokens = [f"[UNUSED{i}]" for i in range(vocab_size)]
    types = [gguf.TokenType.UNUSED] * vocab_size
    for token, i in content["model"]["vocab"].items():
        tokens[i], types[i] = token, gguf.TokenType.NORMAL
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.begin_of_text)
    writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_pad_token_id(tokenizer.pad)
    writer.add_eot_token_id(tokenizer.special[END])
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(chat_template)


def pre_name(content: dict[str, Any]) -> str:
    """llama.cpp's name for the way in which a tokenizer.json cuts and joins text; UserError where it has none."""
    if content["normalizer"] is not None:
        raise UserError(
            f"the tokenizer changes text before it encodes it ({content['normalizer'].get('type')}), and llama.cpp "
            "does not; --to hf takes any"
        )
    name = _name_of_pattern(content)
    model = content["model"]
    # Under this name llama.cpp takes a piece that is a token for that token, under the others it joins what merges say.
    if model["ignore_merges"] != (name == "llama-bpe") and not _merges_lead_to_every_token(content):
        raise UserError(
            "the tokenizer has tokens that its merges do not lead to, and llama.cpp would "
            f"{'take' if name == 'llama-bpe' else 'miss'} them; --to hf takes any"
        )
    return name


def _name_of_pattern(content: dict[str, Any]) -> str:
    before = content["pre_tokenizer"] or {}
    match before.get("pretokenizers", [before]):
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            return "gpt-2"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False},
        ]:
            return "smollm"
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
        ]:
            if pattern in _NAMES:
                return _NAMES[pattern]
            raise UserError(
                f"llama.cpp cannot cut text by the tokenizer's pattern, {pattern}: it knows those of "
                f"{', '.join(_NAMES.values())} alone; --to hf takes any"
            )
    raise UserError("llama.cpp cannot cut text into pieces as the tokenizer does; --to hf takes any")


def _merges_lead_to_every_token(content: dict[str, Any]) -> bool:
    """Whether each token of the vocabulary, spelled out alone, is joined to itself."""
    added = {token["content"] for token in content["added_tokens"]}
    tokens = [token for token in content["model"]["vocab"] if token not in added]
    model = {**content["model"], "ignore_merges": False}
    plain = {**content, "model": model, "added_tokens": [], "pre_tokenizer": None, "post_processor": None}
    alone = tokenizers.Tokenizer.from_str(json.dumps(plain)).encode_batch_fast(tokens, add_special_tokens=False)
    return all(encoding.ids == [model["vocab"][token]] for token, encoding in zip(tokens, alone, strict=True))
