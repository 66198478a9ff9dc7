"""Cluster files: TOML of a dozen lines that says what hardware the planner is to plan for.

```toml
devices_per_machine = 8
memory_per_device = "80GB"
efficiency = 0.45                     # the fraction of the FLOP/s below that layers reach

[flops]
float32 = "156TFLOP/s"

[links.within_machine]
bandwidth = "300GB/s"                 # of one device, in each direction
latency = "3.4us"

[links.between_machines]
bandwidth = "200GB/s"                 # of one machine, in each direction
latency = "14us"
```
"""

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from kparallel.errors import PlanError
from kparallel.forecast.hardware import Hardware, Link
from kparallel.forecast.quantity import parse, write

__all__: list[str] = []

# By the name of a field: whether it is required, and its kind.
_FIELDS = {
    "name": (False, "text"),
    "machines": (False, "number"),
    "devices_per_machine": (True, "number"),
    "memory_per_device": (True, "bytes"),
    "memory_bandwidth": (False, "rate"),
    "efficiency": (True, "fraction"),
    "action_start": (False, "seconds"),
    "loop_step": (False, "seconds"),
    "all_reduce": (False, "text"),
    "flops": (True, "table"),
    "links": (True, "table"),
}
_LINK = {"bandwidth": (True, "rate"), "latency": (True, "seconds"), "per_device": (False, "rate")}
_LINKS = {"within_machine": (True, "table"), "between_machines": (False, "table")}


def shipped() -> dict[str, str]:
    """Return the cluster files that come with kparallel: text by name.

    Example:
        >>> list(shipped())
        ['8xA100', '8xH100', 'cpu-hosts']
    """
    folder = files("kparallel.forecast").joinpath("clusters")
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {entry.name.removesuffix(".toml"): entry.read_text() for entry in sorted(found, key=lambda each: each.name)}


def read_hardware(source: str | Path | Hardware) -> Hardware:
    """Read a cluster file.

    Args:
        source: The path of a file, or the name of one that comes with kparallel: `"8xA100"`, `"8xH100"` or
            `"cpu-hosts"`. Hardware is returned as it is.

    Raises:
        PlanError: There is no such file, or it is not valid; the message says which line.

    Example:
        >>> read_hardware("8xA100").memory_per_device
        80000000000.0
    """
    if isinstance(source, Hardware):
        return source
    if not isinstance(source, str | Path):
        raise PlanError(f"Expected cluster to be the path of a cluster file or one of {_names()}, received {source!r}.")
    known = shipped()
    if str(source) in known:
        return parse_hardware(known[str(source)], str(source))
    try:
        text = Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        near = get_close_matches(str(source), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PlanError(
            f"Expected the path of a cluster file or one of {_names()}, received {str(source)!r}, which cannot be "
            f"read: {error}.{hint}"
        ) from error
    return parse_hardware(text, str(source))


def parse_hardware(text: str, source: str = "cluster file") -> Hardware:
    """Read the text of a cluster file.

    Args:
        text: TOML.
        source: Where it comes from, for errors.

    Raises:
        PlanError: It is not valid.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"Expected TOML in {source}, received a text that is none: {error}.") from error
    values = _values(data, _FIELDS, source, "")
    flops = {dtype: parse(value, "flops", f"flops.{dtype} in {source}") for dtype, value in values["flops"].items()}
    if not flops:
        raise PlanError(f"Expected the FLOP/s of at least one dtype in [flops] of {source}, received none.")
    # The tables are checked one within the other, so that an error names the whole path of a key.
    links = _values(values.pop("links"), _LINKS, source, "links.")
    within = Link(**_values(links["within_machine"], _LINK, source, "links.within_machine."))
    between = None
    if "between_machines" in links:
        between = Link(**_values(links["between_machines"], _LINK, source, "links.between_machines."))
    return Hardware(**{"name": source, **values, "flops": flops}, within=within, between=between)


def hardware_text(hardware: Hardware, comments: Iterable[str] = ()) -> str:
    """Return a cluster file.

    Args:
        hardware: What it says.
        comments: Lines above it, such as how it was measured.

    Example:
        >>> text = hardware_text(read_hardware("8xA100"))
        >>> parse_hardware(text) == read_hardware("8xA100")
        True
    """
    lines = [f"# {comment}" for comment in comments]
    lines += [f'name = "{hardware.name}"', f"machines = {hardware.machines}"]
    lines += [f"devices_per_machine = {hardware.devices_per_machine}"]
    lines += [_line("memory_per_device", hardware.memory_per_device, "bytes")]
    if hardware.memory_bandwidth < float("inf"):
        lines += [_line("memory_bandwidth", hardware.memory_bandwidth, "rate")]
    lines += [f"efficiency = {hardware.efficiency:.4g}", _line("action_start", hardware.action_start, "seconds")]
    lines += [_line("loop_step", hardware.loop_step, "seconds")] if hardware.loop_step else []
    lines += [f'all_reduce = "{hardware.all_reduce}"', "", "[flops]"]
    lines += [_line(dtype, rate, "flops") for dtype, rate in hardware.flops.items()]
    for name, link in (("within_machine", hardware.within), ("between_machines", hardware.between)):
        if link is not None:
            lines += ["", f"[links.{name}]", _line("bandwidth", link.bandwidth, "rate")]
            lines += [_line("latency", link.latency, "seconds")]
            lines += [_line("per_device", link.per_device, "rate")] if link.per_device is not None else []
    return "\n".join(lines) + "\n"


def _line(name: str, value: float, kind: str) -> str:
    return f'{name} = "{write(value, kind)}"'


def _names() -> str:
    return ", ".join(map(repr, shipped()))


def _values(data: Any, fields: Mapping[str, tuple[bool, str]], source: str, table: str) -> dict[str, Any]:
    """Return the checked values of a table."""
    unknown = next((name for name in data if name not in fields), None)
    if unknown is not None:
        near = get_close_matches(unknown, fields, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Use {', '.join(fields)}."
        raise PlanError(f"Expected known names in {source}, received {table + unknown!r}.{hint}")
    missing = [name for name, (required, _) in fields.items() if required and name not in data]
    if missing:
        raise PlanError(
            f"Expected {table + missing[0]!r} in {source}, received only {', '.join(data) or 'nothing'}. "
            f"'kparallel test --write {Path(source).name}' measures a whole file."
        )
    return {name: _value(value, fields[name][1], f"{table}{name} in {source}") for name, value in data.items()}


def _value(value: Any, kind: str, name: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    expected = {
        "text": ("a text", isinstance(value, str)),
        "table": ("a table", isinstance(value, dict)),
        "number": ("a whole number of at least 1", is_number and isinstance(value, int) and value >= 1),
        "fraction": ("a number", is_number),
    }
    if kind not in expected:
        return parse(value, kind, name)
    what, holds = expected[kind]
    if not holds:
        raise PlanError(f"Expected {name} to be {what}, received {value!r}.")
    return value
