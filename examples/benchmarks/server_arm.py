"""The other machine of an arm that is one program over two: it serves its devices, and says so when the parent asks."""

import threading

from examples.benchmarks.child import begin, serve

__all__: list[str] = []


def main() -> None:
    """Serve one device until the program ends. The program's times are the arm's: here no step is run.

    Options: `variants`, the names of the program's.
    """
    options = begin()
    import tensorflow as tf

    from kparallel.cluster import read_one_program
    from kparallel.machines import server

    tf.config.threading.set_intra_op_parallelism_threads(1)
    machines = read_one_program()
    assert machines is not None
    runs = {name: _nothing for name in options["variants"]}
    threading.Thread(target=serve, args=(options, runs, {}), daemon=True).start()
    server.serve(machines, devices=None, timeout=120.0, heartbeat=60.0, token="")


def _nothing(steps: int) -> None:
    return None


if __name__ == "__main__":
    main()
