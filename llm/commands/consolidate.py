"""`python -m llm consolidate`: a checkpoint that many processes wrote, as one file."""

from pathlib import Path

from llm.commands.parser import CommandParser
from llm.errors import UserError


def parser() -> CommandParser:
    """The options of `consolidate`."""
    options = CommandParser(
        "consolidate",
        "Write a checkpoint folder, to which each process of a sharded run wrote its part, as one file: weights, "
        "optimizer and all else. Other commands take the folder as it is.",
    )
    options.add_argument("--checkpoint", required=True, help="a .ckpt folder, or the folder of a run (its best one)")
    options.add_argument("--output", required=True, help="the .ckpt file to write, which must not be there yet")
    return options


def main(arguments: list[str]) -> int:
    """Write the file and say what it holds."""
    options = parser().parse_args(arguments[1:])

    import torch

    from llm.checkpoint import damage, read_checkpoint
    from llm.checkpoint_folder import is_folder_checkpoint
    from llm.interop.output import new_file
    from llm.run import find_checkpoint

    path, output = find_checkpoint(options.checkpoint), Path(options.output)
    if not is_folder_checkpoint(path):
        raise UserError(f"{path} is one file already: copy it")
    problem = damage(path)
    if problem is not None:
        raise UserError(f"{path} is damaged ({problem}): choose another one")
    with new_file(output) as partial:
        checkpoint = read_checkpoint(path)
        torch.save(checkpoint, partial)
    weights = sum(tensor.numel() for tensor in checkpoint["state_dict"].values())
    print(f"{output}: step {checkpoint['global_step']:,}, {weights:,} weights, {output.stat().st_size:,} bytes")
    return 0
