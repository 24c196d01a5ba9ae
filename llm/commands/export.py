"""`python -m llm export`: a trained model for other programs."""

import importlib
import importlib.util
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from llm.commands.parser import CommandParser
from llm.errors import UserError

if TYPE_CHECKING:
    from llm.model import GPTConfig


def parser() -> CommandParser:
    """The options of `export`."""
    options = CommandParser(
        "export",
        "Write a trained model and its tokenizer for other programs: a folder for transformers and vLLM (hf), or a "
        "file for llama.cpp and Ollama (gguf). It is read back and compared before it gets its name.",
    )
    options.add_argument("--checkpoint", required=True, help="a .ckpt file, or the folder of a run (its best one)")
    options.add_argument(
        "--to", required=True, choices=("hf", "gguf", "peft"), help="what to write; peft: an adapter alone"
    )
    options.add_argument("--output", required=True, help="the folder to write, which must not hold anything yet")
    options.add_argument(
        "--dtype", default="f32", choices=("f32", "f16", "bf16", "q8_0"), help="of the weights; q8_0 for gguf alone"
    )
    return options


def main(arguments: list[str]) -> int:
    """Write the model and say what was verified."""
    options = parser().parse_args(arguments[1:])
    if options.to != "gguf" and options.dtype == "q8_0":
        raise UserError("--dtype q8_0 goes with --to gguf alone: choose f32, f16 or bf16")
    if options.to == "gguf" and importlib.util.find_spec("gguf") is None:
        raise UserError("--to gguf needs the package gguf: pip install 'labyrinth-llm[gguf]'")

    from llm.checkpoint import TENSORS, load_model, read_checkpoint
    from llm.run import find_checkpoint

    path = find_checkpoint(options.checkpoint)
    chat_template = read_checkpoint(path, without=TENSORS)["labyrinth"].get("chat_template")
    model, tokenizer = load_model(path)
    if options.to == "peft":
        return _write_adapter(path, model.config, options)
    writer = importlib.import_module({"hf": "llm.interop.huggingface", "gguf": "llm.interop.gguf"}[options.to])
    told = writer.write_folder(Path(options.output), model, tokenizer, dtype=options.dtype, chat_template=chat_template)
    print(f"{options.output}: {told['architecture']}, {told['bytes']:,} bytes")
    print(f"verified: {told['verified']}")
    return 0


def _write_adapter(path: Path, config: "GPTConfig", options: Namespace) -> int:
    from llm.adapters import adapter_of
    from llm.checkpoint import read_checkpoint
    from llm.interop.peft_files import write_adapter

    adapter = adapter_of(read_checkpoint(path, without=("optimizer_states",)))
    if adapter is None:
        raise UserError(f"{path} holds a whole model and no adapter: write it with --to hf")
    told = write_adapter(Path(options.output), config, adapter.lora, adapter.weights, dtype=options.dtype)
    print(f"{options.output}: an adapter for {told['architecture']}, {told['bytes']:,} bytes")
    print(f"verified: {told['verified']}")
    return 0
