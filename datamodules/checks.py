"""Settings of a data module that cannot be, told before anything is read."""

from collections.abc import Mapping
from typing import Any

from datamodules.errors import DataError

LEAST = {
    "context_length": 1,
    "batch_size": 1,
    "eval_batch_size": 1,
    "num_workers": 0,
    "tokenizer_sample_bytes": 1,
    "shard_tokens": 2,
    "cache_bytes": 1,
    "shuffle_window": 1,
}
# Of settings that make tokens: what they are where nobody gave them.
USUAL = {"sources": "stdlib", "validation_sources": None, "tokenizer": None, "curation": None, "packing": "concat"}


def check_settings(settings: Mapping[str, Any]) -> None:
    """DataError for numbers out of their range, and for settings that exclude each other."""
    for name, least in LEAST.items():
        value = settings[name]
        if value is not None and value < least:
            raise DataError(f"{name} is {value}; it can be {least} or more")
    global_batch_tokens, context_length = settings["global_batch_tokens"], settings["context_length"]
    if global_batch_tokens < context_length or global_batch_tokens % context_length:
        below = max(1, global_batch_tokens // context_length) * context_length
        raise DataError(
            f"global_batch_tokens is {global_batch_tokens}, not a multiple of context_length {context_length}; "
            f"choose for example {below} or {below + context_length}"
        )
    given = [name for name, usual in USUAL.items() if settings.get(name, usual) != usual]
    if settings["tokens"] is not None and given:
        raise DataError(f"tokens {settings['tokens']} are made already: leave out {', '.join(given)}")
