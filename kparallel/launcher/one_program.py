"""The environments of one program over several machines: worker 0 runs the script, the others serve."""

from collections.abc import Mapping, Sequence

from kparallel.cluster import ONE_PROGRAM, read_one_program
from kparallel.errors import ClusterError
from kparallel.launcher.sizes import Sizes

__all__: list[str] = []

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def check_one_program(environment: Mapping[str, str], workers: Sizes | None) -> None:
    """Check what `--one-program` goes together with.

    Args:
        environment: The launcher's environment variables.
        workers: What `-n` says, or None.

    Raises:
        ClusterError: Another program has set `TF_CONFIG`, or the number of workers may change.
    """
    if environment.get("TF_CONFIG"):
        raise ClusterError(
            "Expected no TF_CONFIG in the environment with --one-program, received one, by which each worker would run "
            "the script. Unset it, and name the machines in --hosts; or leave --one-program out."
        )
    if workers is not None and workers.is_elastic:
        raise ClusterError(
            f"Expected a fixed number of workers with --one-program, whose stages need all machines, received "
            f"-n {workers.least}:{workers.most}. Write -n {workers.most}, and --restarts to start again after a loss."
        )


def one_program_environments(
    environments: Sequence[Mapping[str, str]], given: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the environments of workers that run one program, made from those of a cluster's workers.

    To TensorFlow and Keras the script is no worker of a cluster, so the machines have a variable of their own.

    Args:
        environments: Those of the workers that this launcher starts, with `TF_CONFIG`.
        given: The launcher's own environment variables.

    Raises:
        ClusterError: There is one worker.

    Example:
        >>> from kparallel.cluster import Cluster
        >>> program = Cluster(("a:1", "b:1"), 0).to_tf_config()
        >>> one_program_environments([{"TF_CONFIG": program}], {}) == [{"KPARALLEL_ONE_PROGRAM": program}]
        True
    """
    if not all("TF_CONFIG" in each for each in environments):
        raise ClusterError("Expected several workers with --one-program, received one. Say -n 2 or more, or --hosts.")
    result = []
    for each in environments:
        own = {name: value for name, value in each.items() if name != "TF_CONFIG"} | {ONE_PROGRAM: each["TF_CONFIG"]}
        cluster = read_one_program(own)
        if cluster is not None and cluster.index > 0:
            # A server warns of each function that it is done with.
            own[_LOG_LEVEL] = given.get(_LOG_LEVEL, "2")
        result.append(own)
    return result
