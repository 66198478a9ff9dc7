"""A manual cut: the layers of each stage, by name or glob."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from kparallel.errors import PlanError
from kparallel.planning.units import Unit

__all__: list[str] = []


def count_stages(by_hand: Any) -> int:
    """Return the number of stages of a manual cut.

    Args:
        by_hand: The cut, as for `stages_by_name`.

    Raises:
        PlanError: The argument is no manual cut.

    Example:
        >>> count_stages(["head"]), count_stages([["embed"], ["head"]]), count_stages({"GPU:0": ["*"]})
        (2, 2, 1)
    """
    if isinstance(by_hand, str) or not isinstance(by_hand, Mapping | Sequence) or not by_hand:
        hint = f" To cut before this layer, write [{by_hand!r}]." if isinstance(by_hand, str) else ""
        raise PlanError(
            "Expected stages to be a number, a dict of device name to names of layers, a list of lists of names (one "
            f"list for each stage), or a list of the first layers of all later stages, received {by_hand!r}.{hint}"
        )
    return len(by_hand) + _is_cut_points(by_hand)


def stages_by_name(units: Sequence[Unit], by_hand: Any) -> tuple[int, ...]:
    """Return the stage of each unit.

    A name or glob matches a layer by its path, by the last part of its path, or by the path of a model around it. A
    plain operation is in the latest stage that it reads from.

    Args:
        units: The model's units.
        by_hand: A list or dict (by device) of the names and globs of each stage; or a list with the first layer of each
            stage but stage 0.

    Raises:
        PlanError: A name is unknown, a layer is in two stages or in none, or a stage reads from a later one.

    Example:
        >>> chain = [Unit(n, 1.0, 1, 4, 4, 4, (), (n,)) for n in ("embed", "block/up", "block/down", "head")]
        >>> stages_by_name(chain, {"GPU:0": ["embed", "block"], "GPU:1": "head"})
        (0, 0, 0, 1)
        >>> stages_by_name(chain, ["down"])
        (0, 0, 1, 1)
    """
    count_stages(by_hand)
    if _is_cut_points(by_hand):
        stage_of = _from_cut_points(units, by_hand)
    else:
        stage_of = _from_groups(units, list(by_hand.values()) if isinstance(by_hand, Mapping) else by_hand)
    _check_order(units, stage_of)
    return stage_of


def _is_cut_points(by_hand: Any) -> bool:
    # ["head"]                   cut points: stage 1 begins at "head"
    # [["embed"], ["head"]]      groups: a list for each stage
    # {"GPU:0": ["embed"], ...}  groups, each with its device
    return not isinstance(by_hand, Mapping) and all(isinstance(each, str) for each in by_hand)


def _from_cut_points(units: Sequence[Unit], points: Sequence[str]) -> tuple[int, ...]:
    starts = []
    for point in points:
        matches = [index for index, unit in enumerate(units) if unit.layers and _matches(point, unit.name)]
        if not matches:
            raise _unknown(point, units)
        # Inputs and plain operations before the first layer make no stage.
        if not any(unit.layers for unit in units[: matches[0]]):
            raise PlanError(
                f"Expected the first layers of all later stages, received {point!r}, before which no layer is left for "
                "stage 0. Leave it out: the first stage needs no name."
            )
        starts.append(matches[0])
    if starts != sorted(set(starts)):
        raise PlanError(f"Expected cut points in the order of the model, each once, received {list(points)}.")
    return tuple(sum(index >= start for start in starts) for index in range(len(units)))


def _from_groups(units: Sequence[Unit], groups: Sequence[Sequence[str]]) -> tuple[int, ...]:
    home: dict[str, int] = {}
    for stage, names in enumerate(groups):
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise PlanError(f"Expected a list of names or globs of layers for stage {stage}, received {names!r}.")
        for name in names:
            matches = {layer for unit in units for layer in unit.layers if _matches(name, layer)}
            if not matches:
                raise _unknown(name, units)
            for layer in matches:
                if home.setdefault(layer, stage) != stage:
                    raise PlanError(
                        f"Expected each layer in one stage, received {layer!r} in stages {home[layer]} and {stage}: "
                        "that would be a cut inside a shared layer. Name it once."
                    )
    missing = sorted({layer for unit in units for layer in unit.layers} - set(home))
    if missing:
        raise PlanError(f"Expected every layer in a stage, received none for {missing[:8]}. Name them, or use a glob.")
    stage_of: list[int] = []
    for unit in units:
        # Units come in topological order, so the stages of all that this one reads are known.
        read = max((stage_of[index] for index in unit.reads), default=0)
        stage_of.append(max(home[layer] for layer in unit.layers) if unit.layers else read)
    return tuple(stage_of)


def _check_order(units: Sequence[Unit], stage_of: Sequence[int]) -> None:
    for index, unit in enumerate(units):
        if unit.stays_with is not None and stage_of[unit.stays_with] != stage_of[index]:
            raise PlanError(
                f"Expected every call of {unit.name!r}, a layer with state, in one stage, received stages "
                f"{stage_of[unit.stays_with]} and {stage_of[index]}: that would be a cut inside a shared layer. "
                "Move the cut so that all its calls lie on one side, or give each call a layer of its own."
            )
        for read in unit.reads:
            if stage_of[read] > stage_of[index]:
                raise PlanError(
                    f"Expected stages in the order of the model, but {unit.name!r} in stage {stage_of[index]} reads "
                    f"{units[read].name!r} in stage {stage_of[read]}. Move one of them."
                )


def _matches(pattern: str, path: str) -> bool:
    # path     encoder/block_1/dense
    # heads    encoder   encoder/block_1   encoder/block_1/dense
    # A pattern that matches a head names a model around the layer, and with it all that is inside.
    parts = path.split("/")
    heads = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return fnmatchcase(parts[-1], pattern) or any(fnmatchcase(head, pattern) for head in heads)


def _unknown(name: str, units: Sequence[Unit]) -> PlanError:
    known = list(dict.fromkeys(layer for unit in units for layer in unit.layers))
    # Suggested by the full path or by its last part, whichever the reader meant.
    near = get_close_matches(name, [*known, *(path.rsplit("/", 1)[-1] for path in known)], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return PlanError(f"Expected names or globs of layers, received {name!r}, which matches none of {known[:12]}.{hint}")
