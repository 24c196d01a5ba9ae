"""Train or validation: a pure function of the text, so neither order nor number of workers can change it."""

import numpy as np

SALT = np.uint64(
    0x6C616279_72696E74
)  # fixed rather than the run's seed: runs of several seeds share one validation set
TOLERANCE = 2.0  # validation may hold between 1/2 and 2 times the share of bytes that was asked for


def in_validation(clusters: np.ndarray, fraction: float) -> np.ndarray:
    """bool [n]: true where the salted hash of a duplicate cluster (uint64 [n, 2]) lies below `fraction` of its range.

    All members of a cluster get one answer.
    """
    return mix(clusters[:, 0] ^ SALT).astype(np.float64) < fraction * 2.0**64


def mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: a bijection of uint64 in which each bit moves all others."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def is_near(share: float, fraction: float) -> bool:
    """Whether the share of bytes in validation is close enough to what was asked for."""
    return fraction / TOLERANCE <= share <= fraction * TOLERANCE


def cut_tail(text: str, fraction: float) -> int:
    """Where the last `fraction` of a document begins: at the nearest line start within half a tail, else mid-line."""
    tail = round(len(text) * fraction)
    cut = len(text) - tail
    before = text.rfind("\n", cut - tail // 2, cut) + 1
    after = text.find("\n", cut, cut + tail // 2) + 1
    if before and after:
        return before if cut - before <= after - cut else after
    return before or after or cut
