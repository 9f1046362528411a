"""A permutation of any size that is computed and not stored: entry by entry, from a key.

A Feistel network mixes the bits of a number in rounds, each of which can be taken back, so that it permutes all numbers
of so many bits; a result that is too large is sent through again until it is small enough, which permutes the rest
among themselves (cycle walking: J. Black and P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
"""

from __future__ import annotations

import hashlib

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import DataError

_ROUNDS = 8


class Permutation:
    """A permutation of 0 ... count - 1.

    Args:
        count: how many numbers are permuted, 1 to 2^62.
        key: numbers it depends on; another key gives another permutation.

    Example:
        >>> order = Permutation(5, (0,))
        >>> sorted(order(np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, count: int, key: tuple[int, ...]) -> None:
        if not 0 < count <= 1 << 62:
            raise DataError(f"a permutation of {count} numbers; expected 1 to 2**62.")
        self.count = count
        bits = max(2, (count - 1).bit_length())
        self._low = np.uint64(bits // 2)
        self._low_mask = np.uint64((1 << bits // 2) - 1)
        self._high_mask = np.uint64((1 << bits - bits // 2) - 1)
        digest = hashlib.blake2b(repr((count, key)).encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, positions: Array) -> Array:
        """Return what stands at some positions, int64, of the same shape."""
        out = self._mixed(np.asarray(positions, dtype=np.uint64))
        beyond = np.flatnonzero(out >= self.count)
        while len(beyond):  # fewer than half of them each time, for there are less than twice as many numbers
            again = self._mixed(out.reshape(-1)[beyond])
            out.reshape(-1)[beyond] = again
            beyond = beyond[again >= self.count]
        return out.astype(np.int64)

    def _mixed(self, numbers: Array) -> Array:
        """Mix the low bits into the high ones and the high into the low, in turn."""
        low, high = numbers & self._low_mask, numbers >> self._low
        for i in range(0, _ROUNDS, 2):
            high = high ^ (_scrambled(low + self._keys[i]) & self._high_mask)
            low = low ^ (_scrambled(high + self._keys[i + 1]) & self._low_mask)
        return (high << self._low) | low


def _scrambled(values: Array) -> Array:
    """A hash of 64 bits (the finaliser of splitmix64, by S. Vigna)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
