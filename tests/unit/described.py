"""Models as descriptions: the planner needs no layers."""

from kparallel.planning.units import Unit


def chain(length, flops=1e9, parameters=1000, width=100):
    """Return equal calls, each of which reads the one before it; all numbers take four bytes."""
    names = [f"dense_{index}" for index in range(length)]
    return [
        Unit(name, flops, parameters, 4 * parameters, 4 * width, 4 * width, (index - 1,) if index else (), (name,))
        for index, name in enumerate(names)
    ]


def transformer(blocks, width, sequence, vocabulary=1000, heads=16):
    """Return the calls of a Transformer in bfloat16 with weights in float32."""
    tensor, units = 2 * sequence * width, []

    def call(name, flops, parameters, kept, output, *reads):
        units.append(
            Unit(name, flops, parameters, 4 * parameters, kept, output, reads, (name,), largest_bytes=parameters)
        )
        return len(units) - 1

    x = call("embedding", sequence * width, vocabulary * width, tensor, tensor)
    for block in range(blocks):
        norm = call(f"block_{block}/norm", 8 * sequence * width, 2 * width, tensor, tensor, x)
        scores = 2 * 2 * heads * sequence**2
        flops = 8 * sequence * width**2 + 4 * sequence**2 * width
        attended = call(f"block_{block}/attention", flops, 4 * width**2, 5 * tensor + scores, tensor, norm)
        x = call(f"block_{block}/add", sequence * width, 0, tensor, tensor, x, attended)
        norm = call(f"block_{block}/norm_2", 8 * sequence * width, 2 * width, tensor, tensor, x)
        up = call(f"block_{block}/up", 8 * sequence * width**2, 4 * width**2, 4 * tensor, 4 * tensor, norm)
        down = call(f"block_{block}/down", 8 * sequence * width**2, 4 * width**2, tensor, tensor, up)
        x = call(f"block_{block}/add_2", sequence * width, 0, tensor, tensor, x, down)
    call("head", 2 * sequence * width * vocabulary, width * vocabulary, 0, 2 * sequence * vocabulary, x)
    return units
