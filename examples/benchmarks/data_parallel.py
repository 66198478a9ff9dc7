"""Data parallelism over two virtual devices of one process, against stock Keras on the same and on one."""

from examples.benchmarks.arms import running
from examples.benchmarks.processes import keras_arm, legacy_arm
from examples.benchmarks.ratio import alternate, report, speed_ratio
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK

__all__: list[str] = []


def rows(work: str, settings: Settings) -> list[Row]:
    """Measure one model.

    Args:
        work: Its name in `WORK`.
        settings: How to run.

    Returns:
        Samples a second against stock `MirroredStrategy` and against one stock device; on the MLP also against
        legacy `tf_keras` where it is installed.
    """
    legacy = work == "mlp" and settings.legacy_python is not None
    arms = {
        "plain": keras_arm(work, "plain", [0]),
        "stock": keras_arm(work, "mirrored", [0, 1], devices=2),
        "wrapped": keras_arm(work, "wrapped", [0, 1], devices=2, variants={"": {"replicas": 2}}),
    }
    if legacy:
        assert settings.legacy_python is not None
        arms["legacy"] = legacy_arm(work, [0, 1], settings.legacy_python)
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].steps)
    print(report(samples))
    title, batch = WORK[work].title, WORK[work].batch
    setting = f"global batch {batch}, two virtual devices on two cores"
    result = [
        speed_ratio(
            f"{title}: data parallel on 2 devices ÷ stock `MirroredStrategy.fit` on the same",
            samples["wrapped"],
            samples["stock"],
            at_least=2.0 if work == "mlp" else 1.3,
            conditions=setting,
        ),
        speed_ratio(
            f"{title}: data parallel on 2 devices ÷ one stock device pinned to one core",
            samples["wrapped"],
            samples["plain"],
            at_least=1.7,
            conditions=setting,
        ),
    ]
    if work == "mlp":
        what = f"{title}: data parallel on 2 devices ÷ legacy `tf_keras` `MirroredStrategy.fit` on the same"
        result.append(
            speed_ratio(what, samples["wrapped"], samples["legacy"], conditions=setting)
            if legacy
            else Row(what, None, conditions="not run: no interpreter with tf_keras")
        )
    return result
