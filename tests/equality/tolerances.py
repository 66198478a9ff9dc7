"""The one place of tolerances, with the measured controls that justify them."""

# In float64, on every weight, slot, metric and history entry, relative to the larger of 1 and the entry.
FLOAT64 = 1e-9
# In float32, wherever plain Keras meets it against itself with the rows of each batch permuted.
FLOAT32 = 1e-5
# Where it does not, and for mixed precision, this many times the control.
FACTOR = 4.0

# case: the largest difference of plain Keras from itself in float32 (in the case's own policy where it has one), over
# three permutations of the rows inside each batch. `python -m tests.equality.control` measures them.
CONTROLS: dict[str, float] = {}


def tolerance(name: str, policy: str) -> float:
    """Return what a case may differ by under a dtype policy."""
    if policy == "float64":
        return FLOAT64
    return FLOAT32 if CONTROLS[name] <= FLOAT32 else FACTOR * CONTROLS[name]
