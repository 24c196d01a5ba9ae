"""The order of samples: a pure function of (seed, sample number), in constant memory.

A permutation of n rows is a keyed Feistel network on the next power of two, walked along its cycles until it lands
below n (cycle walking: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 4).
"""

import numpy as np
import xxhash

ROUNDS = 8
LEAST_BITS = 4  # narrower networks have too few different permutations; walking makes up for the wider range


class Permutation:
    """A pseudo-random bijection of 0 ... n - 1 for each key; called with int64 [...], it returns int64 [...]."""

    def __init__(self, n: int, *key: int) -> None:
        if n < 1:
            raise ValueError(f"a permutation of {n} rows; it needs 1 or more")
        self.n = n
        bits = max(LEAST_BITS, (n - 1).bit_length())
        # The halves need not be equally wide: they take turns in being changed by a function of the other.
        self.low_bits = np.uint64(bits // 2)
        self.masks = (np.uint64((1 << bits // 2) - 1), np.uint64((1 << (bits - bits // 2)) - 1))
        text = "/".join(str(part) for part in key).encode()
        self.keys = [np.uint64(xxhash.xxh3_64_intdigest(text, seed=number)) for number in range(ROUNDS)]

    def __call__(self, index: np.ndarray) -> np.ndarray:
        value = self._network(np.asarray(index).astype(np.uint64))
        while (outside := value >= self.n).any():
            value[outside] = self._network(value[outside])
        return value.astype(np.int64)

    def _network(self, value: np.ndarray) -> np.ndarray:
        low, high = value & self.masks[0], value >> self.low_bits
        for number, key in enumerate(self.keys):
            if number % 2:
                high = high ^ (_mix(low ^ key) & self.masks[1])
            else:
                low = low ^ (_mix(high ^ key) & self.masks[0])
        return high << self.low_bits | low


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: each bit of the input moves each bit of the output."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
