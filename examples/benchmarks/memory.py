"""What a pipeline keeps in memory: 1F1B against GPipe, recomputation against none, and what recomputation costs."""

from typing import Any

from examples.benchmarks.arms import Process, running
from examples.benchmarks.processes import keras_arm
from examples.benchmarks.ratio import alternate, milliseconds, report, row_of
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK
from kparallel.cluster import Cluster
from kparallel.launcher.local import free_addresses

__all__: list[str] = []

_STAGES, _MICROBATCHES = 4, 16
_BATCH = {"mlp": 8192, "transformer": 128}
_MB = 1e6
_WORKERS = 4
_SECONDS = 1500.0  # Until an arm answers that traces twelve stages for four replicas, or four workers do.


def schedules(work: str, settings: Settings) -> list[Row]:
    """Compare what the stages keep with 1F1B and with GPipe."""
    one, all_ = (_facts(work, settings, schedule=schedule) for schedule in ("1f1b", "gpipe"))
    return [
        *_live(f"{WORK[work].title}: live activation bytes, 1F1B ÷ GPipe", one, all_, at_most=0.3),
        Row(
            f"{WORK[work].title}: growth of the process's memory over two steps, 1F1B ÷ GPipe",
            one["grown"] / all_["grown"],
            conditions=f"{one['grown'] / _MB:.0f} against {all_['grown'] / _MB:.0f} MB, all that TensorFlow takes",
        ),
    ]


def recomputation(work: str, settings: Settings) -> list[Row]:
    """Measure a step that recomputes against one that does not, and what the stages keep."""
    wrap = {"replicas": 1, "stages": 2, "microbatches": 8}
    arms = {
        how: keras_arm(work, "wrapped", [0, 1], devices=2, variants={"": {**wrap, "recompute": how}})
        for how in ("always", "never")
    }
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].steps)
    print(report(samples))
    ratios = [a.seconds / n.seconds for a, n in zip(samples["always"], samples["never"], strict=True)]
    setting = f"2 stages, 8 microbatches, batch {WORK[work].batch}; {milliseconds(*samples.values())}"
    time = row_of(f"{WORK[work].title}: time of a step, recompute always ÷ never", ratios, conditions=setting)
    rows = [Row(time.what, time.value, time.low, time.high, at_most=1.4, conditions=setting)]
    never, always = (
        _facts(work, settings, schedule="gpipe", recompute=how, microbatches=_MICROBATCHES)
        for how in ("never", "always")
    )
    return rows + _live(f"{WORK[work].title}: live activation bytes, recompute always ÷ never, GPipe", always, never)


def shared_weights(settings: Settings) -> list[Row]:
    """Compare what a device holds where the replicas share the weights out, and where each of them has all."""
    shared, whole = (_live_bytes(settings, shard) for shard in ("weights", None))
    setting = "Transformer of 12 blocks, 4 replicas, 12 stages on each of 4 virtual devices, Adam"
    most, least = max(shared["in_step"].values()), min(whole["in_step"].values())
    part = max(whole["activations"].values()) / whole["state"]
    return [
        Row(
            "live bytes at the peak of a step, weights shared out ÷ each replica has all",
            most / least,
            at_most=0.45,
            conditions=f"{setting}; {most / _MB:.0f} against {least / _MB:.0f} MB on a device; activations "
            f"{part:.2f} of weights, gradients and slots",
        ),
        Row(
            "bytes on a device between steps, weights shared out ÷ each replica has all",
            max(shared["rest"].values()) / min(whole["rest"].values()),
            conditions=setting,
        ),
    ]


def shared_weights_of_workers(settings: Settings) -> list[Row]:
    """Compare the memory of each worker's process where the workers share the weights out, and where each has all."""
    shared, whole = (_memory_of_workers(settings, shard) for shard in ("weights", None))
    setting = f"Transformer of 12 blocks, {_WORKERS} workers on two cores, 12 stages on each, Adam"
    most, least = max(shared["peak"]), min(whole["peak"])
    return [
        Row(
            "live bytes of a worker at the peak of a step, weights shared out ÷ each worker has all",
            most / least,
            at_most=0.45,
            conditions=f"{setting}; {most / _MB:.0f} against {least / _MB:.0f} MB, by TensorFlow's allocator; "
            f"weights, gradients and slots {shared['state'] / _MB:.0f} MB",
        ),
        Row(
            "live bytes of a worker between steps, weights shared out ÷ each worker has all",
            max(shared["rest"]) / min(whole["rest"]),
            conditions=setting,
        ),
    ]


def _memory_of_workers(settings: Settings, shard: str | None) -> Any:
    addresses = free_addresses(_WORKERS)
    processes = [
        Process(
            "examples.benchmarks.worker_memory_arm",
            {"shard": shard, "workers": _WORKERS},
            [index % 2],
            environment={"TF_CONFIG": Cluster(addresses, index).to_tf_config()},
        )
        for index in range(_WORKERS)
    ]
    with running({"workers": processes}, settings.log, _SECONDS) as started:
        return started["workers"].facts


def _live_bytes(settings: Settings, shard: str | None) -> Any:
    process = Process("examples.benchmarks.live_bytes_arm", {"shard": shard}, [0, 1])
    with running({"live bytes": [process]}, settings.log, _SECONDS) as started:
        return started["live bytes"].facts


def _live(what: str, ours: Any, base: Any, at_most: float | None = None) -> list[Row]:
    """Return the ratio of what the stage that keeps most keeps."""
    most, of = max(ours["peaks"]), max(base["peaks"])
    setting = f"{_STAGES} stages, {_MICROBATCHES} microbatches; {most / _MB:.1f} against {of / _MB:.1f} MB on a device"
    return [Row(what, most / of, at_most=at_most, conditions=setting)]


def _facts(work: str, settings: Settings, **wrap: Any) -> Any:
    options = {
        "work": work,
        "batch": _BATCH[work],
        "stages": _STAGES,
        "wrap": {"microbatches": _MICROBATCHES, **wrap},
    }
    with running({"memory": [Process("examples.benchmarks.memory_arm", options, [0, 1])]}, settings.log) as started:
        return started["memory"].facts
