"""Measures the controls: how far plain Keras differs from itself when rows change places inside each batch.

Run as `python -m tests.equality.control [name ...]`; paste what it prints into `tolerances`.
"""

import sys

from tests.equality.cases import CASES
from tests.equality.measure import differences, reference

SEEDS = (1, 2, 3)


def control(name: str) -> float:
    """Return the largest difference over all weights, slots and history entries, and three permutations."""
    policy = CASES[name].policy or "float32"
    want = reference(name, policy)
    return max(max(differences(reference(name, policy, seed), want).values()) for seed in SEEDS)


if __name__ == "__main__":
    for each in sys.argv[1:] or CASES:
        print(f'    "{each}": {control(each):.1e},', flush=True)
