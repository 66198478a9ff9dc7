"""The plan: what runs where, decided once, frozen and printable. Knows nothing of tensors."""

from dataclasses import dataclass

from kparallel.mesh import Mesh
from kparallel.schedule import Programs, Schedule, programs_for

__all__: list[str] = []


@dataclass(frozen=True)
class LayerGroup:
    """The layers of one stage.

    Args:
        layers: Names of the layers, in topological order.
        parameters: Number of weights, trainable or not.
        weight_bytes: Bytes of these weights on one device.
        units: Numbers of the stage's calls in the model's graph; empty where the model is one stage.
    """

    layers: tuple[str, ...]
    parameters: int
    weight_bytes: int
    units: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The decision how a model is spread over devices; `print` it to read it.

    Args:
        model_name: Name of the model that it was made for.
        mesh: The devices.
        groups: One layer group per stage.
        microbatches: Into how many parts each replica's share of a batch is split.
        schedule: Its name, or a function of (stages, microbatches).
        recompute: `"never"`, `"always"` or `"except_last"`: which forward passes are run again for the backward.

    Example:
        >>> print(Plan("mlp", Mesh((("CPU:0",), ("CPU:1",))), (LayerGroup(("a", "b"), 10, 40),)))
        plan for 'mlp': 2 replicas x 1 stage
                    stage 0
        replica 0   CPU:0
        replica 1   CPU:1
        stage 0: 2 layers, 10 parameters, 40 B of weights on each of CPU:0, CPU:1
    """

    model_name: str
    mesh: Mesh
    groups: tuple[LayerGroup, ...]
    microbatches: int = 1
    schedule: str | Schedule = "1f1b"
    recompute: str = "never"

    @property
    def lanes(self) -> tuple[int, ...]:
        """Index of each stage's lane: stages on one device run one after another."""
        row = self.mesh.rows[0]
        order = list(dict.fromkeys(row))
        return tuple(order.index(name) for name in row)

    def programs(self) -> Programs:
        """Return the actions of each lane."""
        return programs_for(self.schedule, self.mesh.stages, self.microbatches, self.lanes)

    def __str__(self) -> str:
        mesh = self.mesh
        lines = [
            f"plan for {self.model_name!r}: {_count(mesh.replicas, 'replica')} x {_count(mesh.stages, 'stage')}",
            str(mesh),
        ]
        for index, group in enumerate(self.groups):
            lines.append(
                f"stage {index}: {_count(len(group.layers), 'layer')}, {group.parameters:,} parameters, "
                f"{_size(group.weight_bytes)} of weights on each of {', '.join(mesh.column(index))}"
            )
        return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError("unreachable")
