"""Two stages in two pinned processes of one program, next to the same plan in one process and to PyTorch's pipeline."""

from examples.benchmarks.arms import Process, running
from examples.benchmarks.processes import keras_arm, torch_arm
from examples.benchmarks.ratio import alternate, best_variant, milliseconds, report, row_of, speed_ratio
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK
from examples.benchmarks.workers import check_twins
from kparallel.cluster import ONE_PROGRAM, Cluster
from kparallel.launcher.local import free_addresses

__all__: list[str] = []

_MICROBATCHES = (2, 4, 8)
_FASTEST = "one process, fastest"


def rows(work: str, settings: Settings) -> list[Row]:
    """Measure one model.

    Args:
        work: Its name in `WORK`.
        settings: How to run.

    Returns:
        One program over two processes, each with a core ÷ the same plan on two virtual devices of one process on both
        cores; ÷ the plan that is fastest in that process, which may use both cores within an action; and ÷ two
        processes of PyTorch. The schedules and numbers of microbatches are those that were fastest in a trial before.
    """
    ours = {
        f"{s}, M={m}": {"stages": 2, "schedule": s, "microbatches": m} for s in ("1f1b", "zb_h1") for m in _MICROBATCHES
    }
    theirs = {
        f"{s}, M={m}": {"schedule": s, "microbatches": m}
        for s in ("gpipe", "1f1b", "zero bubble")
        for m in _MICROBATCHES
    }
    arms = {
        "one process": keras_arm(work, "wrapped", [0, 1], devices=2, variants=ours),
        "two processes": _one_program(keras_arm(work, "wrapped", [0], variants=ours)[0]),
    }
    variants = {"one process": ours, "two processes": ours}
    if settings.torch_python is not None:
        arms["torch"] = torch_arm(work, "pipeline", settings.torch_python, workers=2, variants=theirs)
        variants["torch"] = theirs
    steps = WORK[work].steps
    with running(arms, settings.log) as started:
        check_twins(started)
        chosen = {name: best_variant(started[name], list(variants[name]), steps) for name in arms}
        # One arm in two turns: with the plan of two processes, and with its own.
        chosen[_FASTEST] = chosen["one process"]
        chosen["one process"] = chosen["two processes"]
        samples = alternate({**started, _FASTEST: started["one process"]}, settings.rounds, steps, chosen)
    print(report(samples))
    one, two, fastest = samples["one process"], samples["two processes"], samples[_FASTEST]
    what = f"{WORK[work].title}: 2 stages in two pinned processes of one program"
    setting = f"batch {WORK[work].batch}, loopback, {chosen['two processes']}"
    other = f"{setting} against {chosen[_FASTEST]}"
    result = [
        speed_ratio(f"{what} ÷ the plan in one process", two, one, at_least=0.95, conditions=setting),
        speed_ratio(f"{what} ÷ the fastest plan in one process", two, fastest, conditions=other),
    ]
    peer = f"{what} ÷ `torch.distributed.pipelining` in two"
    if "torch" not in samples:
        return [*result, Row(peer, None, at_least=1.0, conditions="not run: no interpreter with PyTorch")]
    quotients = [a.seconds / b.seconds for a, b in zip(samples["torch"], two, strict=True)]
    setting = f"gloo, {chosen['torch']}; {milliseconds(two, samples['torch'])}"
    return [*result, row_of(peer, quotients, at_least=1.0, conditions=setting)]


def _one_program(program: Process) -> list[Process]:
    """Return a program on one core, and what serves it a second machine, on the other."""
    addresses = free_addresses(2)
    machines = [{ONE_PROGRAM: Cluster(addresses, index).to_tf_config()} for index in range(2)]
    return [
        Process(program.module, program.options, program.cores, environment=machines[0]),
        Process(
            "examples.benchmarks.server_arm",
            {"variants": list(program.options["variants"])},
            [1],
            environment=machines[1],
        ),
    ]
