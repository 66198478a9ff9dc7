"""What is not the same whole and divided, and what to say of it."""

from dataclasses import dataclass

import numpy as np

__all__: list[str] = []

_GOES_ON = {
    "train_step": "trains all the same: on averages over the replicas",
    "test_step": "goes on all the same: each replica by itself",
}


@dataclass(frozen=True)
class Finding:
    """Something that is not the same whole and divided.

    Args:
        what: A description.
        difference: By how much they differ, relative to the largest number of the whole.
        ratio: The divided in units of the whole, where it is one number for all.
    """

    what: str
    difference: float
    ratio: float | None


def reason(finding: Finding, replicas: int, sums: bool) -> str:
    """Return what is likely the reason, and what to do.

    Args:
        finding: What is not the same.
        replicas: How many parts there were.
        sums: Whether losses were taken for sums over rows, not for means.
    """
    ratio = finding.ratio
    if finding.what.startswith("the slices"):
        return (
            "The optimizer squares or clips the slices of a lookup one by one, and replicas give it another number of "
            "slices of an index than one device does: indices come from tf.unique, or one table is looked up twice, "
            "once by positions. Pass it tf.convert_to_tensor(gradient), use a table for each lookup, or SGD"
        )
    if ratio is not None and not sums and abs(ratio * replicas - 1) < 1e-2:
        return (
            f"It is {ratio:.3g} times the whole's: the step sums over its rows, or divides by a batch size that is "
            'written into it, and is taken for a mean. Say wrap(..., loss_reduction="sum"), or divide by tf.shape(x)[0]'
        )
    if ratio is not None and sums and abs(ratio / replicas - 1) < 1e-2:
        return (
            f"It is {ratio:.3g} times the whole's: the step takes a mean over its rows, and is taken for a sum. Leave "
            'out loss_reduction="sum"'
        )
    return (
        "Likely the step compares rows with one another (kparallel.gather gives it those of all replicas), has a batch "
        "size written into it (tf.shape(x)[0] is that of the rows it sees), or divides one sum over rows by another "
        "(kparallel.all_reduce gives the sums of all replicas)"
    )


def described(finding: Finding, model: str, step: str, replicas: int, rows: int, sums: bool) -> str:
    """Return what was expected, what came and the ways out."""
    finite = np.isfinite(finding.difference)
    apart = f"differs by {finding.difference:.2g} of its size" if finite else "is not finite in one of the two"
    return (
        f"Expected {model}.{step} to do the same with {rows} rows whole and divided between {replicas} replicas, "
        f"received {finding.what}, which {apart}. "
        f"{reason(finding, replicas, sums)}. "
        f'With wrap(..., check="warn") it {_GOES_ON.get(step, _GOES_ON["test_step"])}, not as on one device.'
    )
