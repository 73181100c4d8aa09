"""Random numbers that depend on a seed and a sample's index alone, whatever the batch, the order or the process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014), on uint64."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def scramble(seed: int, index: np.ndarray) -> np.ndarray:
    """A uint64 for each index.

    Args:
        seed (`int`): 0 or more.
        index (`np.ndarray` of int64, any shape).
    """
    with np.errstate(over="ignore"):
        return _mix((index.astype(np.uint64) + np.random.default_rng(seed).integers(2**64, dtype=np.uint64)) * _GAMMA)


def uniform(seed: int, index: np.ndarray, draws: int = 1) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 of shape `(*index.shape, draws)`: `draws` independent ones for each index.

    The first numbers of an index are the same however many are drawn.
    """
    with np.errstate(over="ignore"):
        steps = np.arange(1, draws + 1, dtype=np.uint64) * _GAMMA
        states = _mix(scramble(seed, index)[..., None] + steps)
    return (states >> np.uint64(11)) * 2.0**-53


def integers(seed: int, index: np.ndarray, high: int | np.ndarray, draws: int = 1) -> np.ndarray:
    """Uniform whole numbers in [0, high), int64 of shape `(*index.shape, draws)`.

    Args:
        seed, index, draws: as for [`uniform`].
        high (`int`, or `np.ndarray` of the shape of `index`): the bound, the same for all or one for each index.
    """
    bound = np.asarray(high)[..., None] if np.ndim(high) else high
    return (uniform(seed, index, draws) * bound).astype(np.int64)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The generators of Python, NumPy and torch start from a seed inside, and are after it as they were before."""
    import torch
    from transformers import set_seed

    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            set_seed(seed)
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
