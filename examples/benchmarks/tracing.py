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
    """Measure a first step with few and with many microbatches, and a first call of few and of many layers."""
    options = {"stages": _STAGES, "layers": _LAYERS, "microbatches": (_FEW, _MANY), "calls": _CALLS}
    variants = [*(f"step {m}" for m in (_FEW, _MANY)), *(f"calls {n}" for n in _CALLS)]
    actions, calls = [], []
    with running({"tracing": [Process("examples.benchmarks.tracing_arm", options, [0, 1])]}, settings.log) as started:
        for _ in range(settings.rounds):
            few, many, short, long = (1e3 * started["tracing"].run(1, variant).seconds for variant in variants)
            actions.append((many - few) / (2 * _STAGES * (_MANY - _FEW)))
            calls.append((long - short) / (_CALLS[1] - _CALLS[0]))
    setting = f"{_STAGES} stages of {_LAYERS} Dense layers, {_FEW} to {_MANY} microbatches; first step, traced and run"
    ratios = [action / call for action, call in zip(actions, calls, strict=True)]
    return [
        replace(row_of("one more action in a step", actions, unit="ms", conditions=setting), at_most=5.0),
        row_of("one more action ÷ one more Dense call", ratios, conditions=setting),
    ]
