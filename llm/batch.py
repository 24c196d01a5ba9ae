"""The tokens of an optimizer step where the size of the model decides them, filled in for the data module."""

from pathlib import Path

from jsonargparse import Namespace

from llm.checkpoint import TENSORS, read_checkpoint
from llm.modules.size import batch_tokens, parse_size, token_budget


def fill_batch(options: Namespace, written: Namespace) -> None:
    """Set `data.global_batch_tokens` of a run with `model.size`, unless the user wrote it.

    A run that goes on from a checkpoint keeps the checkpoint's: its place in the data is counted in such steps.

    Args:
        options: of the subcommand, defaults included.
        written: of the subcommand, what the user wrote alone.
    """
    model, data = options.model.init_args, options.data.init_args
    mine = written.get("data", Namespace()).get("init_args", Namespace())
    if model.get("size") is None or "global_batch_tokens" in mine or "global_batch_tokens" not in data:
        return
    saved = {}
    if options.get("ckpt_path"):
        checkpoint = read_checkpoint(Path(options.ckpt_path), without=TENSORS)
        saved = checkpoint.get("datamodule_hyper_parameters", {})
    tokens = model.max_tokens or token_budget(parse_size(model.size), model.overtrain)
    data.global_batch_tokens = saved.get("global_batch_tokens") or batch_tokens(tokens, data.context_length)
