"""The commands by name. Those with a file here are light: torch is imported only when one has work to do."""

from llm.configuration import shipped_configs

# Command -> the module whose `main(arguments)` runs it, and what the help says of it.
COMMANDS = {
    "fit": ("llm.cli", "train a model: --config FILE [--key value ...]"),
    "validate": ("llm.cli", "score a checkpoint on what is held out for validation"),
    "test": ("llm.cli", "score a checkpoint on what is kept for test, or on validation once more"),
    "predict": ("llm.cli", "write a table: the loss of every row of text, or the classes of texts"),
    "prepare": ("llm.commands.prepare", "make the corpus, tokenizer and token store of a config, and stop"),
    "show": ("llm.commands.show", "show what a config trains on, token by token: --config FILE --n 3"),
    "import": ("llm.commands.import_", "make a checkpoint of pretrained weights: --from FOLDER --output PATH"),
    "export": (
        "llm.commands.export",
        "write a model for other programs: --checkpoint PATH --to hf|gguf|peft --output FOLDER",
    ),
    "consolidate": (
        "llm.commands.consolidate",
        "make one file of a sharded checkpoint: --checkpoint PATH --output FILE",
    ),
    "generate": ("llm.commands.generate", "continue a prompt: --checkpoint PATH --prompt TEXT"),
    "classify": ("llm.commands.classify", "tell of which class a text is: --checkpoint PATH --text TEXT"),
    "chat": ("llm.commands.chat", "talk with a model that was trained on conversations: --checkpoint PATH"),
}


def help_text() -> str:
    """What `python -m llm --help` prints."""
    commands = "\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: python -m llm COMMAND [--config FILE] [--key value ...]\n\n"
        "From raw text to a language model that answers.\n\n"
        f"commands:\n{commands}\n\n"
        f"shipped configurations: {', '.join(shipped_configs())}\n"
        "Each command has its own --help. Every key of a configuration can be given as a flag."
    )
