"""An arm that tells how many bytes of a step live on a device, for a Transformer of 12 blocks on 4 virtual devices."""

from typing import Any

from examples.benchmarks.child import begin, serve

__all__: list[str] = []

_DEVICES, _BLOCKS = 4, 12
# So that activations are at most a quarter of weights, gradients and slots: 96 tokens a device, for 256 features.
_WIDTH, _HEADS, _TOKENS, _BATCH = 256, 4, 24, 16


def main() -> None:
    """Make a step; options: `shard`, as `kparallel.wrap` takes it.

    Facts: `rest`, `in_step` and `activations` as of `LiveBytes`, and `state`, the bytes of all weights, gradients and
    slots.
    """
    options = begin()
    import numpy as np

    import kparallel

    kparallel.virtual_devices(_DEVICES)
    from examples.benchmarks.live_bytes import live_bytes, tensor_bytes
    from examples.benchmarks.transformer import transformer

    model = kparallel.wrap(
        transformer(_BLOCKS, _WIDTH, _HEADS, _TOKENS),
        replicas=_DEVICES,
        stages=_BLOCKS,
        microbatches=1,
        devices=[f"CPU:{index}" for index in range(_DEVICES)],
        shard=options["shard"],
    )
    model.compile("adam", "mse")
    x = np.ones((_BATCH, _TOKENS, _WIDTH), "float32")
    live = live_bytes(model, lambda: model.fit(x, x, batch_size=_BATCH, verbose=0))
    weights = sum(tensor_bytes(weight.value.values[0]) for weight in model.trainable_variables)
    # Adam has two slots for each weight.
    facts: dict[str, Any] = {
        "rest": live.rest,
        "in_step": live.in_step,
        "activations": live.activations,
        "state": 4 * weights,
    }
    serve(options, {}, facts)


if __name__ == "__main__":
    main()
