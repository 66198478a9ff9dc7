"""Results are kept as JSON beside the page; its two tables are written from them, each between two markers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.benchmarks.row import Row

__all__: list[str] = []

BEGIN = "<!-- The table begins; `python -m examples.benchmarks --write` makes it. -->"
END = "<!-- The table ends. -->"
CHOSEN_BEGIN = "<!-- The chosen rows begin; `python -m examples.benchmarks --write` makes them. -->"
CHOSEN_END = "<!-- The chosen rows end. -->"
_HEAD = ["| what | measured | rounds from – to | goal | met | conditions |", "|---|---|---|---|---|---|"]


def update(
    page: Path,
    results: Mapping[str, Sequence[Row]],
    machine: Mapping[str, str],
    order: Sequence[str],
    chosen: Sequence[str] = (),
) -> None:
    """Put the rows of the benchmarks that ran in the place of their old ones, and write the page's tables anew.

    Args:
        page: A Markdown page with the two markers of the table; the JSON file beside it has its name.
        results: Rows by the benchmark's name; empty to write the page from what is stored.
        machine: What they were measured on.
        order: The names of all benchmarks, in the table's order.
        chosen: Names of the rows of the short table, in its order; a page without its markers has none. Default none.

    Raises:
        ValueError: The page has no markers.
    """
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"Expected the lines {BEGIN!r} and {END!r} in {page}, received a page without them.")
    store = page.with_suffix(".json")
    kept: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    for name, rows in results.items():
        kept[name] = {"machine": dict(machine), "rows": [asdict(row) for row in rows]}
    kept = {name: kept[name] for name in order if name in kept}
    store.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    if CHOSEN_BEGIN in text:
        text = _between(text, CHOSEN_BEGIN, CHOSEN_END, render_chosen(kept, chosen))
    page.write_text(_between(text, BEGIN, END, render(kept)))


def render(kept: Mapping[str, Any]) -> str:
    """Return the table, and under it each machine with the benchmarks that ran on it if they are not all."""
    lines = [*_HEAD, *map(line, _rows(kept))]
    machines: dict[str, tuple[Mapping[str, str], list[str]]] = {}
    for name, entry in kept.items():
        machines.setdefault(json.dumps(entry["machine"]), (entry["machine"], []))[1].append(name)
    for facts, names in machines.values():
        lines += ["", "Measured on:" if len(machines) == 1 else f"{', '.join(names)}: measured on", ""]
        lines += [f"- {key}: {value}" for key, value in facts.items()]
    return "\n".join(lines) + "\n"


def render_chosen(kept: Mapping[str, Any], chosen: Sequence[str]) -> str:
    """Return a table of some rows, without their conditions; a row that was never measured is left out."""
    rows = {row.what: row for row in _rows(kept)}
    lines = [line(rows[what]) for what in chosen if what in rows]
    return "\n".join(_without_conditions(each) for each in (*_HEAD, *lines)) + "\n"


def _rows(kept: Mapping[str, Any]) -> list[Row]:
    return [Row(**row) for entry in kept.values() for row in entry["rows"]]


def _without_conditions(text: str) -> str:
    return text.rsplit("|", 2)[0] + "|"


def _between(text: str, begin: str, end: str, table: str) -> str:
    start = text.index(begin) + len(begin)
    return text[:start] + "\n\n" + table + "\n" + text[text.index(end) :]


def line(row: Row) -> str:
    """Return a row as a line of the table."""
    spread = f"{_number(row.low)} – {_number(row.high)}" if row.low is not None and row.high is not None else ""
    goals = [f"≥ {_number(row.at_least)}"] if row.at_least is not None else []
    goals += [f"≤ {_number(row.at_most)}"] if row.at_most is not None else []
    met = {True: "yes", False: "**missed**", None: ""}[row.met]
    measured = "not run" if row.value is None else f"{_number(row.value)} {row.unit}".strip()
    return f"| {row.what} | {measured} | {spread} | {' and '.join(goals)} | {met} | {row.conditions} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"
