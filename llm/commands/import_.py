"""`python -m llm import`: pretrained weights as a checkpoint of ours."""

from pathlib import Path

from llm.commands.parser import CommandParser


def parser() -> CommandParser:
    """The options of `import`."""
    options = CommandParser(
        "import",
        "Make a checkpoint of a pretrained model, for generate, fit --ckpt_path and export. Weights are read from "
        "safetensors files; pickle files are refused.",
    )
    options.add_argument(
        "--from", required=True, dest="source", help="a folder with config.json, or owner/name on the Hugging Face hub"
    )
    options.add_argument("--output", required=True, help="the .ckpt file to write")
    options.add_argument(
        "--dtype", default=None, choices=("f32", "f16", "bf16"), help="of the weights (default: as in the files)"
    )
    return options


def main(arguments: list[str]) -> int:
    """Write the checkpoint and say what it holds."""
    options = parser().parse_args(arguments[1:])

    from llm.interop.checkpoint_file import import_folder, tokenizer_path
    from llm.interop.hub import find_folder
    from llm.interop.huggingface import DTYPES

    output = Path(options.output)
    imported = import_folder(find_folder(options.source), output, DTYPES.get(options.dtype))
    config = imported.config
    print(
        f"{output}: {imported.family.architecture}, {config.n_parameters():,} parameters, {config.n_layers} layers of "
        f"width {config.d_model}, context {config.context_length}, {config.vocab_size:,} token ids"
    )
    print(f"{tokenizer_path(output)}: its tokenizer, for fit --ckpt_path {output} --data.tokenizer")
    return 0
