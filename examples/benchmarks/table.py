"""Results are kept as JSON beside the page; its tables, of the chosen rows and of all, are written from them."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.benchmarks.row import Row

__all__: list[str] = []

BEGIN = "<!-- The table begins; `python -m examples.benchmarks --write` makes it. -->"
END = "<!-- The table ends. -->"
CHOSEN_BEGIN = "<!-- The chosen rows begin; `python -m examples.benchmarks --write` makes them. -->"
CHOSEN_END = "<!-- The chosen rows end. -->"
# By a table's name: its title and the names of its benchmarks.
Tables = Mapping[str, tuple[str, Collection[str]]]

_HEAD = ["| what | measured | rounds from – to | goal | met | conditions |", "|---|---|---|---|---|---|"]


def update(
    page: Path,
    results: Mapping[str, Sequence[Row]],
    machine: Mapping[str, str],
    tables: Tables,
    chosen: Sequence[str] = (),
) -> None:
    """Put the rows of the benchmarks that ran in the place of their old ones, and write the page's tables anew.

    Args:
        page: A Markdown page with the two markers of the table; the JSON file beside it has its name.
        results: Rows by the benchmark's name; empty to write the page from what is stored.
        machine: What they were measured on.
        tables: The tables, in their order.
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
    kept = {name: kept[name] for _, names in tables.values() for name in names if name in kept}
    store.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    if CHOSEN_BEGIN in text:
        text = _between(text, CHOSEN_BEGIN, CHOSEN_END, render_chosen(kept, chosen))
    page.write_text(_between(text, BEGIN, END, render(kept, tables)))


def render(kept: Mapping[str, Any], tables: Tables) -> str:
    """Return the tables that have rows: title, command, rows, and each machine with the benchmarks that ran on it."""
    parts = []
    for table, (title, names) in tables.items():
        entries = {name: kept[name] for name in names if name in kept}
        if entries:
            command = f"`python -m examples.benchmarks --table {table} --write docs/benchmarks.md`"
            lines = [f"### {title}", "", command, "", *_HEAD, *map(line, _rows(entries)), "", *_machines(entries)]
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _machines(entries: Mapping[str, Any]) -> list[str]:
    """Return the lines that say on which machine each benchmark ran: one for each machine."""
    machines: dict[str, list[str]] = {}
    for name, entry in entries.items():
        machines.setdefault("; ".join(f"{key}: {value}" for key, value in entry["machine"].items()), []).append(name)
    if len(machines) == 1:
        return [f"Measured on {facts}." for facts in machines]
    return [f"- {', '.join(names)}: {facts}." for facts, names in machines.items()]


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
