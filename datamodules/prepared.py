"""What training reads: a tokenizer and token stores, made here or found in a folder, on a disk or in a bucket."""

import json
from dataclasses import dataclass
from pathlib import Path

from datamodules.corpus.decisions import TRAIN, VALIDATION
from datamodules.errors import DataError
from datamodules.text.tokenizer import Tokenizer
from datamodules.tokens.cache import RemoteFiles
from datamodules.tokens.packing import Packing
from datamodules.tokens.store import Folder, TokenStore

TOKENIZER_FILE, MANIFEST = "tokenizer.json", "manifest.json"


@dataclass(frozen=True)
class Prepared:
    """What training reads: the tokenizer, a store for each split (None where it is empty), and their fingerprint.

    Where documents are packed into rows, `packing` is that of train, and the fingerprint stands for it too.
    """

    fingerprint: str
    folder: Path
    tokenizer: Tokenizer
    train: TokenStore
    validation: TokenStore | None
    packing: Packing | None = None


def open_tokens(place: str, cache_dir: Path, cache_bytes: int) -> Prepared:
    """Open the folder of tokens that `prepare` has made.

    Args:
        place: a folder, or its URL for fsspec (`s3://bucket/tokens-0123456789abcdef`).
        cache_dir: in which files of a URL are kept.
        cache_bytes: most bytes that they take there.

    Raises:
        DataError: there is no such folder, or it cannot be read.
    """
    files: RemoteFiles | Folder = (
        RemoteFiles(place, cache_dir, cache_bytes) if "://" in place else Folder(Path(place).expanduser())
    )
    try:
        manifest = json.loads(files.read(MANIFEST))
        fingerprint, splits = manifest["fingerprint"], manifest["splits"]
        tokenizer = Tokenizer.from_str(files.read(TOKENIZER_FILE).decode())
    except OSError as error:
        raise DataError(
            f"tokens: cannot read {error.filename or place} ({error.strerror}); name a folder tokens-... that prepare "
            "has made"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"tokens: {place} is no folder of tokens that prepare has made ({error})") from error
    stores = {
        split: TokenStore(files.folder / f"{split}.bin", files) if splits[split]["documents"] else None
        for split in (TRAIN, VALIDATION)
    }
    train = stores[TRAIN]
    if train is None:
        raise DataError(f"tokens: {place} holds no text for training")
    return Prepared(fingerprint, files.folder, tokenizer, train, stores[VALIDATION])
