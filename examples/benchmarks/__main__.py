"""One command measures everything and writes the table: `python -m examples.benchmarks --write docs/benchmarks.md`."""

import fnmatch
import sys
import tempfile
import time
from pathlib import Path

import click

from examples.benchmarks.catalogue import BENCHMARKS, CHOSEN, TABLES
from examples.benchmarks.machine import facts, finds
from examples.benchmarks.row import Settings
from examples.benchmarks.table import line, update

__all__: list[str] = []


@click.command()
@click.option("--table", "tables", multiple=True, type=click.Choice([*TABLES]), help="Run one table; can be repeated.")
@click.option("--only", multiple=True, metavar="NAME", help="Run these only; globs are allowed; can be repeated.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="How often each arm is asked.")
@click.option("--write", type=click.Path(exists=True, path_type=Path), help="The page whose tables take the rows.")
@click.option("--render", is_flag=True, help="Measure nothing: write the page from what is stored beside it.")
@click.option("--torch-python", type=click.Path(exists=True), help="An interpreter with PyTorch; default this one.")
@click.option("--legacy-python", type=click.Path(exists=True), help="An interpreter with tf_keras; default this one.")
@click.option("--names", is_flag=True, help="List the benchmarks and end.")
def main(
    tables: tuple[str, ...],
    only: tuple[str, ...],
    rounds: int,
    write: Path | None,
    render: bool,
    torch_python: str | None,
    legacy_python: str | None,
    names: bool,
) -> None:
    """Measure kparallel side by side with stock Keras and PyTorch, as ratios of arms that take turns."""
    asked = [name for table in tables or TABLES for name in TABLES[table][1]]
    chosen = [name for name in asked if not only or any(fnmatch.fnmatch(name, each) for each in only)]
    if names or not chosen:
        click.echo("\n".join(BENCHMARKS))
        sys.exit(0 if names else f"Expected names out of these, received {', '.join(only)}.")
    if render:
        if write is None:
            raise click.UsageError("Expected --write with the page that --render is to write, received none.")
        update(write, {}, {}, TABLES, CHOSEN)
        return
    with tempfile.TemporaryDirectory() as log:
        settings = Settings(rounds, _with("torch", torch_python), _with("tf_keras", legacy_python), log)
        for name in chosen:
            start = time.perf_counter()
            click.echo(name)
            rows = BENCHMARKS[name](settings)
            click.echo("\n".join(line(row) for row in rows))
            click.echo(f"{name} took {time.perf_counter() - start:.0f} s")
            if write is not None:  # At once, so that nothing is lost if a later one fails.
                update(write, {name: rows}, facts(settings.torch_python), TABLES, CHOSEN)


def _with(module: str, python: str | None) -> str | None:
    """Return the interpreter if it has the module, the present one if none is given and it has."""
    python = python or sys.executable
    return python if finds(python, module) else None


if __name__ == "__main__":
    main()
