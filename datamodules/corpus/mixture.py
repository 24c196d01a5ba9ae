"""Sources mixed by weight: how often each document is read in one pass over train."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.corpus.decisions import DROP, TO_VALIDATION, Documents
from datamodules.corpus.split import mix
from datamodules.errors import DataError

SALT = np.uint64(0x6D697874_75726573)  # so that what is drawn here says nothing about the split
MOST_EPOCHS = 100  # repeating a source gains next to nothing after 4 epochs, and nothing after 40 (Muennighoff 2023)


def weigh(documents: Documents, weights: Mapping[str, float]) -> dict[str, float]:
    """Give each source its share of the bytes of train, which stay as many as they are; returns epochs by source.

    A source that is to have e times the bytes that it holds is read e times: each document as often as the whole part
    of e says, and once more for those whose hash lies below the fraction. Documents that are not drawn at all are
    dropped as `mixture`. Validation is not touched.

    Raises:
        DataError: for a name that is no source, a source without weight, or one that would be read too often.
    """
    if not weights:
        return {}
    names = documents.source_names
    demand_sources(weights, names)
    in_train = (documents.goes != DROP) & (documents.goes != TO_VALIDATION)
    sizes = np.bincount(documents.sources[in_train], weights=documents.sizes[in_train], minlength=len(names))
    missing = [name for name, size in zip(names, sizes, strict=True) if size and name not in weights]
    if missing:
        raise DataError(f"weights leaves out {', '.join(missing)}; give every source its weight (0 for none)")
    wanted = np.array([float(weights.get(name, 0.0)) for name in names]) * (sizes > 0)
    if wanted.sum() == 0:
        raise DataError("weights are 0 for every source that has text; give one of them a weight")
    shares = wanted / wanted.sum() * sizes.sum()
    epochs = np.divide(shares, sizes, out=np.zeros_like(shares), where=sizes > 0)
    worst = int(epochs.argmax())
    if epochs[worst] > MOST_EPOCHS:
        raise DataError(
            f"{names[worst]} would be read {epochs[worst]:,.0f} times to have its weight; give it a smaller one, or "
            f"more text (at most {MOST_EPOCHS} times)"
        )
    _draw(documents, in_train, epochs[documents.sources])
    return {name: round(float(value), 4) for name, value in zip(names, epochs, strict=True)}


def demand_sources(weights: Mapping[str, float], names: Sequence[str]) -> None:
    """Raise DataError for a weight of what is none of the sources called `names`."""
    for name in weights:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise DataError(
                f"weights names {name!r}, which is no source; the nearest is {near!r} of {', '.join(names)}"
            )


def _draw(documents: Documents, in_train: np.ndarray, epochs: np.ndarray) -> None:
    whole = np.floor(epochs)
    once_more = mix(documents.ids[:, 0] ^ SALT).astype(np.float64) < (epochs - whole) * 2.0**64
    copies = (whole + once_more).astype(np.uint8)
    documents.copies[in_train] = copies[in_train]
    none = in_train & (copies == 0)
    documents.drop("mixture", none)
    documents.goes[none] = DROP
