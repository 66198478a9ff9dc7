"""What replicas share out, optimizer or weights too, against what each has whole: the arms alternate in one run."""

from dataclasses import replace

from examples.benchmarks.arms import Sample, running
from examples.benchmarks.processes import apart, keras_arm, keras_workers
from examples.benchmarks.ratio import alternate, milliseconds, report, row_of, speed_ratio
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import STACKS, WORK
from kparallel.planning.sharding import TrainedBytes, sharding_pays

__all__: list[str] = []

_SHARDS = {"each has all": None, "shared out": "optimizer"}
_STAGES = {"mlp": 8, "transformer": 6}  # A layer or a block each.


def devices(work: str, settings: Settings) -> list[Row]:
    """Measure two replicas on two cores against one stock device on one.

    In the same run are stock's own two devices, and two replicas that tell each other nothing, which is what the
    machine allows.

    Args:
        work: Its name in `WORK`.
        settings: How to run.
    """
    arms = {
        "plain": keras_arm(work, "plain", [0]),
        "stock": keras_arm(work, "mirrored", [0, 1], devices=2, untuned=True),
        "apart": apart(work, kind="plain", batch=WORK[work].batch // 2),
    }
    for name, shard in _SHARDS.items():
        wrap = {"replicas": 2, "shard": shard}
        arms[name] = keras_arm(work, "wrapped", [0, 1], devices=2, variants={"": wrap})
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].long)
    print(report(samples))
    title = WORK[work].title
    goals = {"apart": None, "stock": None, "each has all": None, "shared out": 1.85}
    setting = f"global batch {WORK[work].batch}, two virtual devices on two cores"
    names = {
        "apart": "which tell each other nothing",
        "stock": "stock `MirroredStrategy`",
        **{name: f"optimizer {name}" for name in _SHARDS},
    }
    return [
        speed_ratio(
            f"{title}: two replicas, {names[name]} ÷ one stock device pinned to one core",
            samples[name],
            samples["plain"],
            at_least=goal,
            conditions=setting,
        )
        for name, goal in goals.items()
    ]


def against_one_replica(work: str, settings: Settings) -> list[Row]:
    """Measure a model whose update is most of its step: two replicas against one, both on the same two cores."""
    arms = {"one replica": keras_arm(work, "wrapped", [0, 1], adam=True, variants={"": {"replicas": 1}})}
    for name, shard in _SHARDS.items():
        wrap = {"replicas": 2, "shard": shard}
        arms[name] = keras_arm(work, "wrapped", [0, 1], devices=2, adam=True, variants={"": wrap})
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].long)
    print(report(samples))
    setting = f"Adam, global batch {WORK[work].batch}, two virtual devices on two cores"
    return [
        speed_ratio(
            f"{WORK[work].title}: two replicas, optimizer {name} ÷ one replica",
            samples[name],
            samples["one replica"],
            at_least=goal,
            conditions=setting,
        )
        for name, goal in {"each has all": None, "shared out": 1 / 1.1}.items()
    ]


def rule(settings: Settings) -> list[Row]:
    """Measure on both sides of the limit from which `shard="auto"` shares an optimizer out: Dense layers under Adam."""
    variants = {name: {"replicas": 2, "shard": shard} for name, shard in _SHARDS.items()}
    rows = []
    for work in (*STACKS, "mobilenet"):
        arm = keras_arm(work, "wrapped", [0, 1], devices=2, adam=True, variants=variants)
        samples: dict[str, list[Sample]] = {name: [] for name in variants}
        with running({"arm": arm}, settings.log) as started:
            weights = 4 * started["arm"].facts["parameters"]  # Bytes in float32.
            for _ in range(settings.rounds):
                for name, group in samples.items():
                    group.append(started["arm"].run(WORK[work].long, name))
        print(report(samples))
        chosen = sharding_pays(TrainedBytes(dense=weights), slots=2, replicas=2)
        row = speed_ratio(
            f"{WORK[work].title}: two replicas, optimizer shared out ÷ each has all",
            samples["shared out"],
            samples["each has all"],
            conditions=f"Adam, global batch {WORK[work].batch}, {weights / 2**20:.3g} MiB of weights; "
            f'`shard="auto"` {"shares it out" if chosen else "leaves it"}',
        )
        rows.append(replace(row, at_least=1.0) if chosen else row)
    return rows


def workers(work: str, settings: Settings) -> list[Row]:
    """Measure two pinned workers whose optimizer is shared out against two that have all of it."""
    arms = {name: keras_workers(work, variants={"": {"shard": shard}}) for name, shard in _SHARDS.items()}
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].long)
    print(report(samples))
    what = f"{WORK[work].title}: two pinned workers, optimizer shared out ÷ each has all"
    setting = f"batch {WORK[work].batch} a worker, one core a worker, loopback"
    return [speed_ratio(what, samples["shared out"], samples["each has all"], at_least=1.03, conditions=setting)]


def weights(work: str, settings: Settings) -> list[Row]:
    """Measure a step for which weights are brought from their owners, in stages, against one that has all of them."""
    shared = {"replicas": 2, "stages": _STAGES[work], "microbatches": 1, "devices": ["CPU:0", "CPU:1"]}
    arms = {
        "each has all": keras_arm(
            work, "wrapped", [0, 1], devices=2, adam=True, variants={"": {"replicas": 2, "shard": None}}
        ),
        "shared out": keras_arm(
            work, "wrapped", [0, 1], devices=2, adam=True, variants={"": {**shared, "shard": "weights"}}
        ),
    }
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].long)
    print(report(samples))
    ratios = [a.seconds / n.seconds for a, n in zip(samples["shared out"], samples["each has all"], strict=True)]
    setting = (
        f"Adam, {_STAGES[work]} stages on each of two virtual devices, global batch {WORK[work].batch}, two cores; "
        f"{milliseconds(*samples.values())}"
    )
    row = row_of(f"{WORK[work].title}: time of a step, weights shared out ÷ each replica has all", ratios)
    return [replace(row, at_most=1.3, conditions=setting)]
