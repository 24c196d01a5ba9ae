"""The folder that `import --from` means: one on this machine, or that of a model on the Hugging Face hub."""

from pathlib import Path

from llm.errors import UserError

# What a model is read from; no pickle file is ever downloaded.
PATTERNS = ["*.json", "*.safetensors", "merges.txt", "vocab.bpe"]


def find_folder(source: str) -> Path:
    """The folder `source`, else the downloaded (and kept) snapshot of the hub's model of that name."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"--from {source} is a file: give the folder that holds config.json, or a name on the hub")
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"--from {source}: there is no such folder, and a name on the hub reads owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=PATTERNS))
    except Exception as error:  # of many kinds: no network, no such model, no access
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"--from {source}: there is no such folder, and the hub gives no model of that name "
            f"({type(error).__name__}: {reason})"
        ) from error
