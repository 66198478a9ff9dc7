"""The command `kparallel`; it loads TensorFlow only for `plan`, and in the workers."""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

import kparallel
from kparallel.cluster import Cluster
from kparallel.errors import KParallelError
from kparallel.forecast.hardware_file import shipped
from kparallel.launcher.bug_report import bug_report
from kparallel.launcher.elastic import Heard, supervise
from kparallel.launcher.environment import scheduled_cluster
from kparallel.launcher.gang import PREEMPTED, Ending, Launch, run_gang
from kparallel.launcher.gpus import visible_gpus
from kparallel.launcher.member import run_over_hosts
from kparallel.launcher.one_program import check_one_program
from kparallel.launcher.run_options import common_environment, elastic_hosts, workers_of
from kparallel.launcher.sizes import Sizes, parse_sizes
from kparallel.rendezvous import to_stderr
from kparallel.schedule import SCHEDULES

__all__: list[str] = []

_POSITIVE = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0, min_open=True)


def _workers_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where workers run, of all commands that start some."""
    for option in (
        click.option(
            "--heartbeat",
            type=_SECONDS,
            help="Seconds until a frozen one is lost.  [default: 60; with --one-program 20]",
        ),
        click.option(
            "--timeout", type=_SECONDS, default=300.0, show_default=True, help="Seconds to wait for all workers."
        ),
        click.option("--index", type=click.IntRange(min=0), help="Which of --hosts this machine is, from 0."),
        click.option("--hosts", help="host:port of every worker, separated by commas; this machine runs one of them."),
        click.option(
            "--devices-per-worker", type=_POSITIVE, help="Give each worker virtual CPU devices instead of GPUs."
        ),
    ):
        command = option(command)
    return command


class _Workers(click.ParamType[Sizes]):
    name = "N or MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sizes:
        try:
            return value if isinstance(value, Sizes) else parse_sizes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(kparallel.__version__, prog_name="kparallel")
def main() -> None:
    """Train Keras models on many devices and machines as on one."""


@main.command(context_settings={"allow_interspersed_args": False})
@click.option("-n", "--workers", type=_Workers(), help="How many workers; 2:4 for two to four.")
@_workers_options
@click.option("--one-program", is_flag=True, help="Worker 0 runs SCRIPT, with the devices of all workers.")
@click.option("--wait", type=_SECONDS, default=30.0, show_default=True, help="Seconds to wait for MAX of -n MIN:MAX.")
@click.option("--restarts", type=click.IntRange(min=0), default=0, show_default=True, help="Restart a failed gang.")
@click.option("--grace", type=_SECONDS, default=25.0, show_default=True, help="Seconds from SIGTERM to SIGKILL.")
@click.option("-m", "module", is_flag=True, help="SCRIPT is the name of a module, as in python -m.")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(script: str, arguments: tuple[str, ...], module: bool, **options: Any) -> None:
    """Run SCRIPT with ARGUMENTS on several workers.

    \b
    kparallel run -n 4 train.py --epochs 3              four workers on this machine
    kparallel run -n 2:4 train.py                       four, or down to two after losses
    kparallel run --hosts a:2222,b:2222 --index 0 train.py   on machine a; --index 1 on b
    kparallel run -n 1:2 --hosts a:2222,b:2222 --index 0 train.py   the same, and b may come and go
    srun kparallel run train.py                         one worker for each task of Slurm
    srun kparallel run -n 2:4 train.py                  the same for four tasks, of which two may be lost
    kparallel run train.py                              in an indexed Job or JobSet of Kubernetes
    kparallel run -n 2 --one-program train.py           worker 0 runs it, for stages on several machines

    Every worker has joined the cluster before the script starts, so the script needs no line for it.
    """
    if not module and not os.path.isfile(script):
        raise click.BadParameter(f"{script!r} is no file. Write -m before it to run a module.", param_hint="SCRIPT")
    command = ("-m", script, *arguments) if module else (script, *arguments)

    def start(places: Sequence[int], gangs: int, heard: Heard) -> Ending:
        environments, names = workers_of(places=places, gangs=gangs, **options)
        return run_gang(Launch(command, tuple(environments), tuple(names), options["grace"], heard))

    def make(told: Mapping[str, Any], heard: Heard) -> Launch:
        environment, index = common_environment(gangs=told["gangs"], **options), told["index"]
        environment.pop("TF_CONFIG", None)
        if len(told["workers"]) > 1:
            environment["TF_CONFIG"] = Cluster(tuple(told["workers"]), index).to_tf_config()
        return Launch(command, (environment,), (index,), options["grace"], heard)

    try:
        if options["one_program"]:
            check_one_program(os.environ, options["workers"])
        hosts = elastic_hosts(**options)
        if hosts is not None:
            ending = run_over_hosts(hosts, make, to_stderr)
        else:
            ending = supervise(options["workers"] or Sizes(1, 1), options["restarts"], start, _say)
    except KParallelError as error:
        raise click.ClickException(str(error)) from error
    if ending.code not in (0, PREEMPTED) and not ending.signalled:
        _say(ending, "")
    sys.exit(ending.code)


def _say(ending: Ending, outlook: str) -> None:
    """Print how a gang ended: the traceback last, but for the line that sums it up."""
    lines = [f"kparallel: {ending.reason}" + (f"; {outlook}" if outlook else "")]
    if ending.traceback:
        lines = [f"{lines[0]}:", ending.traceback.rstrip()]
    with contextlib.suppress(OSError):  # Nobody reads it any more.
        click.echo("\n".join(lines), err=True)


@main.command()
@click.option("-n", "--workers", type=_POSITIVE, help="Start that many workers on this machine.")
@_workers_options
@click.option("--write", type=click.Path(dir_okay=False), help="Measure devices too, and write a cluster file.")
def test(write: str | None, **options: Any) -> None:
    """Train a small model over everything, and measure each link.

    \b
    kparallel test                                      all devices of this machine
    kparallel test -n 2                                 two workers on this machine
    kparallel test --hosts a:2222,b:2222 --index 0      on machine a; --index 1 on b
    kparallel test --write cluster.toml                 and write what kparallel plan --cluster reads

    It also runs under Slurm and whatever else kparallel run reads a cluster from. The model has to equal the same model
    on one device. A table has the all-reduce between each pair of workers, or of devices of one process, and says which
    is slow or broken. The exit code is 1 if a link is broken, or training does not equal one device.
    """
    try:
        # A CPU alone has nothing to sum.
        if options["workers"] is options["hosts"] is None and _is_lone_cpu(os.environ):
            options["devices_per_worker"] = options["devices_per_worker"] or 2
        workers = options["workers"]
        sizes = None if workers is None else Sizes(workers, workers)
        environments, names = workers_of(places=range(workers or 1), gangs=0, **options | {"workers": sizes})
    except KParallelError as error:
        raise click.ClickException(str(error)) from error
    level = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
    quiet = tuple({**environment, **level} for environment in environments)
    ending = run_gang(
        Launch(
            ("-m", "kparallel.selftest", *([os.path.abspath(write)] if write else [])), quiet, tuple(names), grace=5.0
        )
    )
    if ending.traceback or ending.code not in (0, 1):
        _say(ending, "")
    sys.exit(ending.code)


def _is_lone_cpu(environment: Mapping[str, str]) -> bool:
    return scheduled_cluster(environment) is None and not visible_gpus(environment)


@main.command()
def env() -> None:
    """Print what a report of a bug needs: versions, machine, cluster, variables."""
    click.echo(bug_report(os.environ))


@main.command()
@click.argument("builder", metavar="MODULE:FUNCTION")
@click.option("--replicas", type=_POSITIVE, help="How many replicas.")
@click.option("--stages", type=_POSITIVE, help="Into how many stages to cut the model.  [default: 1]")
@click.option("--microbatches", type=_POSITIVE, help="Into how many microbatches each replica's rows are split.")
@click.option("--schedule", help=f"One of {', '.join(SCHEDULES)}.  [default: 1f1b; with --cluster, the fastest]")
@click.option("--recompute", help="never, always or except_last.")
@click.option("--balance", default="flops", show_default=True, help="What an automatic cut balances.")
@click.option("--batch-size", type=_POSITIVE, help="Rows of a batch, for estimates of memory.")
@click.option("--memory-per-device", help="Such as 8GB: choose the fastest plan that fits; needs --batch-size.")
@click.option(
    "--shard",
    type=click.Choice(["auto", "none", "optimizer", "weights"]),
    default="auto",
    show_default=True,
    help="What the replicas share out.",
)
@click.option("--devices", "count", type=_POSITIVE, help="How many virtual CPU devices, or of --cluster.")
@click.option("--cluster", metavar="FILE", help=f"Forecast for this cluster: a file, or {', '.join(shipped())}.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the plan, or how it scales, into this file.")
def plan(
    builder: str,
    replicas: int | None,
    stages: int | None,
    shard: str,
    count: int | None,
    cluster: str | None,
    plot: str | None,
    **options: Any,
) -> None:
    """Print the plan for the model that FUNCTION of MODULE returns; train nothing.

    \b
    kparallel plan mine:build --stages 4                the plan for this machine's devices
    kparallel plan mine:build --cluster 8xA100 --devices 1024 --batch-size 1536   a forecast for a cluster

    Where there are no accelerators, a plan is made for virtual CPU devices. With --cluster the best five ways to train
    on it are predicted, with the time of a step, memory, and what bounds them.
    """
    name, colon, attribute = builder.partition(":")
    if not colon or not name or not attribute:
        raise click.BadParameter(f"expected module:function, received {builder!r}.", param_hint="MODULE:FUNCTION")
    # A console script has its own folder on the path, where `python -m` has the current one.
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(name), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise click.BadParameter(str(error), param_hint="MODULE:FUNCTION") from error
    try:
        if cluster is None and not visible_gpus(os.environ):
            kparallel.virtual_devices(count or (replicas or 1) * (stages or 1))
        chosen = {"replicas": replicas, "stages": stages, "shard": None if shard == "none" else shard, **options}
        if cluster is not None:
            chosen |= {"cluster": cluster, "devices": count}
        made = kparallel.plan(function, **chosen)
        if plot:
            made.plot(plot)
    except KParallelError as error:
        raise click.ClickException(str(error)) from error
    click.echo(str(made))
