"""Where training stands in its data, and how it goes on from there: at the very step, in the same order of rows."""

import json
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.compat.data import are_arrays
from kparallel.compat.epochs import Position, TrainingData, why_unrepeatable
from kparallel.data.digest import BatchDigest
from kparallel.data.shards import Shards
from kparallel.data.shuffled import ShuffledArrays
from kparallel.errors import DataError

__all__: list[str] = []

_HOOKS = ("on_epoch_begin", "on_epoch_end")


class Progress:
    """Where a `fit` stands in its data.

    Args:
        epoch_iterator: Keras's, over what it reads.
        order: The data, where their order is a function of a seed and the epoch, or None.
    """

    def __init__(self, epoch_iterator: Any, order: ShuffledArrays | Shards | None) -> None:
        self._data = TrainingData(epoch_iterator, self._begin_epoch)
        self._order = order
        self._pass = self._batches = 0
        self._read = BatchDigest()
        self._generators = ""
        self._at_start = ""  # Behind what a `PyDataset` does before the first epoch.
        self._epochs = 0
        self._data.batches.watch = self._note

    def _begin_epoch(self) -> None:
        self._epochs += 1
        # As they are when the epoch begins: what the epoch draws is drawn again when it is resumed.
        self._generators = _generators()
        self._at_start = self._at_start or self._generators

    @property
    def goes_on(self) -> bool:
        """Whether the next epoch goes on in the pass over the data that is read."""
        return self._data.goes_on

    def state(self, steps: int, repeats: bool = True) -> dict[str, Any]:
        """Return where it stands, as `resume` takes it; JSON can hold it.

        Args:
            steps: How many steps of the epoch are done, 0 at its end.
            repeats: Whether the data can be read again in the same order.
        """
        # A pass may have begun in an earlier epoch, whose order it keeps.
        begun = self._order.begun if isinstance(self._order, ShuffledArrays) else 0
        return {
            "steps": steps,
            "repeats": repeats,
            # passes     iterators made so far, also one that Keras made ahead
            # pass       the one that was read last
            # batches    batches read of it
            # seen       steps that Keras had counted in it
            "passes": self._data.batches.passes,
            "pass": self._pass,
            "batches": self._batches,
            "digest": str(self._read),
            "goes_on": self._data.goes_on,
            "seen": self._data.seen,
            "length": self._data.length,
            "steps_per_epoch": self._data.steps_per_epoch,
            # Epochs that are complete: the running one, if any of its steps are done, begins anew.
            "epochs": self._epochs - (steps > 0),
            "order_begun": begun,
            "generators": self._generators if steps else _generators(),
            "generators_at_start": self._at_start,
        }

    def resume(self, epoch: int, state: dict[str, Any], begin: Callable[[], None]) -> None:
        """Let the first epoch go on where another process stood.

        Args:
            epoch: The epoch.
            state: What `state` returned there.
            begin: Called when the epoch begins, after Keras's reset of the metrics.

        Raises:
            DataError: The epoch has another number of steps; or, when it begins, the data come in another order.
        """
        if not state["steps"]:  # Of a fit that is over no epoch begins, and what follows on it draws from these.
            _set_generators(state["generators"])
        if not state["repeats"]:
            self._data.resume(Position(state["length"]), begin)
            return
        if state["steps"] or state["goes_on"]:
            self._check_steps(state)
        self._epochs = state["epochs"]
        self._at_start = state["generators_at_start"]
        order = self._order
        if isinstance(order, Shards):
            order.epoch = epoch

        def begin_resumed() -> None:
            begin()
            self._replay_hooks(state["epochs"])
            _set_generators(state["generators"])
            self._generators = state["generators"]
            if order is not None and state["goes_on"] and batches:
                order.epoch = state["order_begun"]  # The pass is read from its begin.

        # Of a pass that Keras made ahead, nothing has been read.
        batches = state["batches"] if state["pass"] == state["passes"] else 0
        # Whatever is skipped is read, so that it can be compared with what was read before.
        self._expect(state, batches if state["steps"] or state["goes_on"] else 0)
        read = batches if state["goes_on"] else None
        self._data.resume(
            Position(state["length"], state["steps"], state["passes"], read, state["seen"]), begin_resumed
        )

    def _check_steps(self, state: dict[str, Any]) -> None:
        """Raise where the steps of the epoch that is to go on are not those that were counted."""
        for name, now in (("length", self._data.length), ("steps_per_epoch", self._data.steps_per_epoch)):
            unknown = name == "length" and None in (now, state["length"])
            if now != state[name] and not unknown and not isinstance(self._order, Shards):
                what = "batches of data" if name == "length" else "as steps_per_epoch"
                raise DataError(
                    f"Expected {state[name]} {what}, as when the checkpoint was written within an epoch, received "
                    f"{now}. Train on the same rows with the same batch_size and steps_per_epoch, or begin anew with "
                    "an empty directory."
                )
        if state["steps"] % self._data.steps_per_execution:
            raise DataError(
                f"Expected a steps_per_execution that divides {state['steps']}, the steps of the epoch that were done "
                f"when the checkpoint was written, received {self._data.steps_per_execution}. Compile with the same, "
                "or with 1."
            )

    def _expect(self, state: dict[str, Any], batches: int) -> None:
        """Compare what is read again with what was read."""
        note = self._note

        def compare(number: int, batch: Any) -> None:
            note(number, batch)
            if number < state["passes"] or not batches:
                return
            # All that was read before the checkpoint has been read again. From here on the data are new.
            if self._batches == batches:
                self._data.batches.watch = note
                if str(self._read) != state["digest"]:
                    raise DataError(
                        f"Expected the {batches} batches that were read before the checkpoint was written, received "
                        "others: the data come in another order. Give every random step of the data a seed, as by "
                        "keras.utils.set_random_seed at the script's start, or begin anew with an empty directory."
                    )

        self._data.batches.watch = compare if batches else note

    def _note(self, number: int, batch: Any) -> None:
        if number != self._pass:
            self._pass, self._batches = number, 0
            self._read.begin()
        self._batches += 1
        self._read.add(batch)

    def _replay_hooks(self, epochs: int) -> None:
        """Let a `PyDataset` that reorders itself between epochs do so as often as it had.

        Its batches are read again, for they may draw from the same generators.
        """
        dataset = self._data.py_dataset
        if dataset is None or isinstance(dataset, ShuffledArrays) or not has_own_hooks(dataset):
            return
        _set_generators(self._at_start)
        for _ in range(epochs):
            dataset.on_epoch_begin()
            indices = list(range(dataset.num_batches or 0))
            if self._data.shuffles_py_dataset:
                random.shuffle(indices)
            for index in indices:
                dataset[index]
            dataset.on_epoch_end()


def has_own_hooks(dataset: keras.utils.PyDataset) -> bool:
    """Return whether a `PyDataset` does something between epochs."""
    return any(getattr(type(dataset), hook) is not getattr(keras.utils.PyDataset, hook) for hook in _HOOKS)


def why_only_epochs(x: Any, y: Any, shuffle: Any, steps_per_epoch: int | None) -> str:
    """Return in words why training on some data can only be resumed at an epoch's start, or the empty text.

    Args:
        x: As `fit` takes it; arrays that are shuffled come as an `ShuffledArrays`, unless TensorFlow has a seed.
        y: As `fit` takes it.
        shuffle: As `fit` takes it.
        steps_per_epoch: As `fit` takes it.
    """
    if isinstance(x, ShuffledArrays):
        return ""
    if isinstance(x, Shards):  # Their order is known; what a user's `parse` does is not.
        return why_unrepeatable(x.batches(0, 1))
    if isinstance(x, keras.utils.PyDataset):
        if shuffle and (x.workers > 1 or (x.workers and x.use_multiprocessing)):
            return "is shuffled by several workers (workers=1 would do)"
        return "is shuffled in each pass, of which steps_per_epoch is no measure" if shuffle and steps_per_epoch else ""
    if isinstance(x, tf.data.Dataset):
        return why_unrepeatable(x)
    return "" if are_arrays(x, y) else "cannot be read once more from its begin"


def _generators() -> str:
    """Return the states of Python's and NumPy's generators."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return json.dumps([random.getstate(), [kind, np.asarray(keys).tolist(), place, has_gauss, gauss]])


def _set_generators(text: str) -> None:
    (version, numbers, gauss), numpy_state = json.loads(text)
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(numpy_state))
