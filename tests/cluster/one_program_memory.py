"""A model in one program over two machines: what the memory of each process grows by, and what the whole takes."""

from pathlib import Path

import keras
import numpy as np

import kparallel
from tests.cluster.one_program import other_process

WIDTH, LAYERS = 2500, 6
MEGABYTE = 2**20


def peak(process):
    """Return the most memory, in bytes, that a process has had."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def build():
    layers = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(LAYERS)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers])


def tiny():
    """Train another model first: what TensorFlow takes in any case is no growth."""
    model = kparallel.wrap(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4)]), stages=2
    )
    model.compile("adam", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 4)), verbose=0)


def main():
    tiny()
    processes = {"program": "self", "server": other_process()}
    before = {name: peak(process) for name, process in processes.items()}
    model = kparallel.wrap(build, stages=2, microbatches=1)
    model.compile("adam", "mse")
    rows = np.ones((4, WIDTH), "float32")
    model.fit(rows, rows, epochs=3, verbose=0)
    weights = 4 * model.count_params()
    print("whole", 4 * weights // MEGABYTE)  # Weights, gradients, two slots.
    for name, process in processes.items():
        print(name, (peak(process) - before[name]) // MEGABYTE, flush=True)


if __name__ == "__main__":
    main()
