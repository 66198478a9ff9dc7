"""The state of a training: copied at once, written in the background, restored into another process's model."""

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.checkpoint.folder import folders
from kparallel.compat.optimizers import optimizers_in
from kparallel.compat.saving import WeightFile, load_weights, write_weights
from kparallel.errors import CheckpointError
from kparallel.model_variables import metrics_of, variables_of
from kparallel.resume.callback_states import callback_states, kept_weights, restore_callbacks

__all__: list[str] = []

_WEIGHTS = "model.weights.h5"  # A plain Keras file: `load_weights` reads it.
_REST = "state.npz"
_TRAINING = "training.json"
_KEPT = "callbacks.npz"  # Where a callback keeps weights: those of the best epoch, for example.


def weight_file_of(model: keras.Model) -> WeightFile:
    """Return what captures a model's state, which `take_snapshot` takes."""
    return WeightFile(model, _rest)


def take_snapshot(
    weight_file: WeightFile, training: Mapping[str, Any], callbacks: Sequence[Any] = ()
) -> dict[str, Callable[[Path], None]]:
    """Copy a model's weights, optimizer, seeds and metrics, and return what writes each file of a checkpoint.

    Args:
        weight_file: The model's, as `weight_file_of` returns it.
        training: What else belongs to it; JSON can hold it.
        callbacks: Whose counts belong to it.
    """
    # Copied now. What is returned writes the copies, at any later time and on any thread.
    entries, rest = weight_file.capture()
    counts, kept = callback_states(callbacks)

    def write_training(path: Path) -> None:
        # What the model consists of does not change while it trains, so that this takes none of its time.
        path.write_text(json.dumps({**training, "callbacks": counts, "compiled": _described(weight_file.model)}))

    files = {
        _WEIGHTS: lambda path: write_weights(entries, path),
        _REST: lambda path: _write_arrays(path, [value.numpy() for value in rest]),
        _TRAINING: write_training,
    }
    return files | ({_KEPT: lambda path: _write_arrays(path, kept)} if kept else {})


def restore_newest(model: keras.Model, directory: Path, callbacks: Sequence[Any] = ()) -> dict[str, Any] | None:
    """Put the newest whole checkpoint of a directory into a model and into callbacks.

    Args:
        model: Built as the one that was saved; compiled.
        directory: Holds the checkpoints' folders.
        callbacks: That go on from what they had counted.

    Returns:
        What else belongs to it, or None where there is no checkpoint.

    Raises:
        CheckpointError: There are checkpoints, of which none is whole, or the model is another.
    """
    broken = []
    for folder, damage in folders(directory):
        if not damage:
            try:
                training: dict[str, Any] = json.loads((folder / _TRAINING).read_text())
                counts = training.get("callbacks", {})
                kept = _read_arrays(folder / _KEPT) if kept_weights(counts) else []
                _restore(model, folder, _read_arrays(folder / _REST), training["compiled"])
            except (OSError, zipfile.BadZipFile, json.JSONDecodeError, KeyError) as error:
                damage = f"{type(error).__name__}: {error}"
        if damage:
            # A broken checkpoint is passed over for an older one: the folder's damage may have come after it was
            # written.
            broken.append(f"{folder} ({damage})")
            continue
        if broken:
            warnings.warn(
                f"Training goes on from {folder}, as newer checkpoints are broken: {', '.join(broken)}.", stacklevel=2
            )
        # Not above: an error in a callback of the user's own does not mean that the checkpoint is broken.
        restore_callbacks(callbacks, model, counts, kept)
        return training
    if broken:
        raise CheckpointError(
            f"Expected a whole checkpoint in {directory}, received broken ones: {', '.join(broken)}. Restore one "
            "from a copy, or begin anew with an empty directory."
        )
    return None


def _restore(model: keras.Model, folder: Path, rest: Sequence[np.ndarray[Any, Any]], compiled: dict[str, Any]) -> None:
    had_slots = any(count is not None for _, count in compiled["optimizer"])  # Not that which a step leaves alone.
    # Its slots have to exist before the file can fill them.
    if had_slots and model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    _check_compiled(model, folder, compiled)
    variables = _rest(model)
    # Compared first: seeds and metrics of another model are refused before anything is loaded.
    shapes, expected = [array.shape for array in rest], [tuple(variable.shape) for variable in variables]
    try:
        if shapes != expected:
            raise ValueError(f"its seeds and metrics have the shapes {expected}, not {shapes}")
        load_weights(model, folder / _WEIGHTS)
    except ValueError as error:
        raise CheckpointError(
            f"Expected the model and metrics that {folder} was written from, received {model.name!r}: {error}. Build "
            "and compile the same, or begin anew with an empty directory."
        ) from error
    for variable, array in zip(variables, rest, strict=True):
        kind = tf.as_dtype(variable.dtype).as_numpy_dtype
        variable.assign(array.view(kind) if array.dtype.kind == "V" else array)  # NumPy's files know no bfloat16.


def _write_arrays(path: Path, arrays: Sequence[Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, *arrays)  # Without names they are called arr_0, arr_1, ...


def _read_arrays(path: Path) -> list[np.ndarray[Any, Any]]:
    with np.load(path) as file:
        return [file[f"arr_{index}"] for index in range(len(file.files))]


def _described(model: keras.Model) -> dict[str, Any]:
    """Return what keeps weights, slots and metrics, of which the files have no more than the shapes.

    Of the optimizer and those that it holds class and number of variables, None while it has no slots; of the metrics
    the names, without the numbers by which Keras tells layers apart: they count all that a process has made.
    """
    optimizers = optimizers_in(getattr(model, "optimizer", None))
    return {
        "weights": len(model.weights),
        "optimizer": [[type(each).__name__, len(each.variables) if each.built else None] for each in optimizers],
        "metrics": [re.sub(r"_\d+(?=_|$)", "", metric.name) for metric in metrics_of(model)],
    }


def _check_compiled(model: keras.Model, folder: Path, written: dict[str, Any]) -> None:
    """Raise where another model, optimizer or other metrics would take up what was saved.

    Keras only warns of other slots, and begins with new ones.
    """
    now = _described(model)
    for name, expected in written.items():
        if now[name] != expected:
            raise CheckpointError(
                f"Expected the {name} that {folder} was written with, {expected}, received {now[name]}. Build "
                "and compile the same, or begin anew with an empty directory."
            )


def _rest(model: keras.Model) -> list[keras.Variable]:
    """Return what a weight file leaves out: seeds, metrics, the states of recurrent layers."""
    optimizers = optimizers_in(getattr(model, "optimizer", None))
    held = {id(variable) for variable in [*model.weights, *(v for each in optimizers for v in each.variables)]}
    return [variable for variable in variables_of(model) if id(variable) not in held]
