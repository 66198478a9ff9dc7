"""Which configurations kparallel runs, and which of them as one program over several machines.

```text
each machine has whole replicas            workers: a process on each machine runs the script
each machine has whole columns             one program: the first machine runs the script
rows and columns lie on several machines   neither
```
"""

from kparallel.forecast.configuration import Configuration
from kparallel.forecast.hardware import Hardware
from kparallel.forecast.placement import Placement, place

__all__: list[str] = []


def needs_one_program(configuration: Configuration, hardware: Hardware) -> bool:
    """Tell whether the stages of a replica lie on several machines.

    Example:
        >>> from kparallel.forecast.hardware_file import read_hardware
        >>> two = read_hardware("8xA100").with_devices(16)
        >>> needs_one_program(Configuration(2, 8, 8, 32), two), needs_one_program(Configuration(1, 16, 16, 64), two)
        (False, True)
    """
    crosses = _placement(configuration, hardware).crosses
    # The hop from the last lane to the first is only taken where a lane has several stages.
    return any(crosses if configuration.stages > configuration.lanes else crosses[:-1])


def unsupported(configuration: Configuration, hardware: Hardware) -> str:
    """Say why kparallel cannot run a configuration today; an empty text if it can.

    Example:
        >>> from kparallel.forecast.hardware_file import read_hardware
        >>> two = read_hardware("8xA100").with_devices(16)
        >>> unsupported(Configuration(1, 16, 16, 64), two)
        ''
        >>> unsupported(Configuration(2, 16, 16, 64), two.with_devices(32))
        'the stages of a replica lie on several machines, and so do the replicas of a stage'
    """
    if needs_one_program(configuration, hardware):
        if _placement(configuration, hardware).group.machines > 1:
            return "the stages of a replica lie on several machines, and so do the replicas of a stage"
        if configuration.shard == "weights":
            return "one program over several machines shares out no weights"
    return ""


def _placement(configuration: Configuration, hardware: Hardware) -> Placement:
    shape = configuration.replicas, configuration.lanes
    return place(hardware.devices_per_machine, *shape, configuration.neighbors)
