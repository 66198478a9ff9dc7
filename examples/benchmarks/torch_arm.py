"""An arm that trains with PyTorch: alone, with DistributedDataParallel, or as a pipeline of two processes."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from examples.benchmarks.child import Run, begin, serve

__all__: list[str] = []


def main() -> None:
    """Build the model as the options say, then serve.

    Options: `work`; `kind`: `"single"`, `"ddp"` or `"pipeline"`; `batch` of one worker; `workers`; `index`;
    `variants` of a pipeline: by name `{"schedule": "gpipe", "1f1b" or "zero bubble", "microbatches": M}`.
    """
    options = begin()
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    if options["workers"] > 1:
        torch.distributed.init_process_group(
            "gloo", rank=options["index"], world_size=options["workers"], timeout=timedelta(seconds=600)
        )
    from examples.benchmarks.torch_models import build

    model = build(options["work"])
    parameters = sum(p.numel() for p in model.parameters())
    if options["kind"] == "pipeline":
        runs = {name: _pipeline(build(options["work"]), options, v) for name, v in options["variants"].items()}
    else:
        runs = {"": _training(model, options)}
    serve(options, runs, {"parameters": parameters})


def _training(model: Any, options: Mapping[str, Any]) -> Run:
    """Return ordinary training, of one process or of one of several workers."""
    from torch.nn.parallel import DistributedDataParallel

    from examples.benchmarks.torch_models import batches, loss, optimizer

    data = batches(options["work"], options["batch"])
    if options["kind"] == "ddp":
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    update = optimizer(model)

    def run(steps: int) -> None:
        for step in range(steps):
            x, y = data[step % len(data)]
            update.zero_grad(set_to_none=True)
            loss(model(x), y).backward()
            update.step()

    return run


def _pipeline(model: Any, options: Mapping[str, Any], variant: Mapping[str, Any]) -> Run:
    """Return training of this process's stage."""
    import torch
    from torch.distributed.pipelining import (
        PipelineStage,
        Schedule1F1B,
        ScheduleGPipe,
        ScheduleInterleavedZeroBubble,
    )

    from examples.benchmarks.torch_models import batches, halves, loss, optimizer

    data = batches(options["work"], options["batch"])
    index = options["index"]
    part = halves(model, options["work"])[index]
    stage = PipelineStage(part, index, 2, torch.device("cpu"))
    microbatches = variant["microbatches"]
    if variant["schedule"] == "zero bubble":  # Of one stage in each process.
        schedule: Any = ScheduleInterleavedZeroBubble([stage], microbatches, loss_fn=loss)
    else:
        kind = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[variant["schedule"]]
        schedule = kind(stage, microbatches, loss_fn=loss)
    update = optimizer(part)

    def run(steps: int) -> None:
        for step in range(steps):
            x, y = data[step % len(data)]
            update.zero_grad(set_to_none=True)
            if index == 0:
                schedule.step(x)
            else:
                schedule.step(target=y, return_outputs=False)
            update.step()

    return run


if __name__ == "__main__":
    main()
