"""What one more action costs when a step is made, beside what one more layer call costs in any Keras model."""

from dataclasses import replace

from examples.benchmarks.arms import Process, running
from examples.benchmarks.ratio import row_of
from examples.benchmarks.row import Row, Settings

__all__: list[str] = []

_STAGES, _LAYERS = 8, 2
_FEW, _MANY = 4, 32
_CALLS = (10, 110)


def rows(settings: Settings) -> list[Row]:
    """Measure how the time to make a step grows with its actions, and a function's with its layer calls."""
    options = {"stages": _STAGES, "layers": _LAYERS, "microbatches": (_FEW, _MANY), "calls": _CALLS}
    more = {"trace": _STAGES * 2 * (_MANY - _FEW), "first": _STAGES * 2 * (_MANY - _FEW)}
    costs: dict[str, list[float]] = {"trace": [], "first": [], "trace calls": []}
    with running({"tracing": [Process("examples.benchmarks.tracing_arm", options, [0, 1])]}, settings.log) as started:
        for _ in range(settings.rounds):
            for kind, values in costs.items():
                less, most = _CALLS if kind == "trace calls" else (_FEW, _MANY)
                few, many = (1e3 * started["tracing"].run(1, f"{kind} {number}").seconds for number in (less, most))
                values.append((many - few) / more.get(kind, most - less))
    setting = f"{_STAGES} stages of {_LAYERS} Dense layers, {_FEW} to {_MANY} microbatches"
    ratios = [action / call for action, call in zip(costs["trace"], costs["trace calls"], strict=True)]
    traced = row_of("tracing a step: one more action", costs["trace"], unit="ms", conditions=setting)
    return [
        replace(traced, at_most=5.0),
        row_of("tracing a step: one more action ÷ one more Dense call in plain Keras", ratios, conditions=setting),
        row_of("first step altogether: one more action", costs["first"], unit="ms", conditions=setting),
    ]
