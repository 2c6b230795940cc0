"""heads::seed in Python: seeds derived by number and name, and their streams. Must not need more than numpy."""

import numpy as np

GOLDEN, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def derive(seed, number):
    return mix(seed ^ mix((number + GOLDEN) & MASK))


def named(seed, name):
    seed = derive(seed, len(name.encode()))
    for byte in name.encode():
        seed = derive(seed, byte)
    return seed


def bits(name, count):
    """Seed(7).named(name).stream(), as numpy uint64."""
    with np.errstate(over="ignore"):
        x = np.uint64(named(7, name)) + np.uint64(GOLDEN) * np.arange(1, count + 1, dtype=np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
