"""Which worker TensorFlow's messages tell to be lost."""

import pytest
import tensorflow as tf

from kparallel.cluster import ONE_PROGRAM, Cluster
from kparallel.comm.failures import lost_workers, translate_worker_loss
from kparallel.errors import WorkerError

KILLED = (
    "Collective ops is aborted by: failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:34597: "
    "Failed to connect to remote host: Connection refused\nAdditional GRPC error information from remote target "
    "/job:worker/replica:0/task:1 while calling /tensorflow.WorkerService/RecvBuf:"
)
FROZEN = (
    "Collective ops is aborted by: Error reported from /job:worker/task:2: The following tasks are unhealthy (stopped "
    "sending heartbeats):\n/job:worker/replica:0/task:1\n/job:worker/replica:0/task:2\nThe tasks have crashed."
)
SILENT_CHIEF = (
    "Collective ops is aborted by: Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/Heartbeat\nThe error"
)
THREE = ("a:1", "b:1", "c:1")


@pytest.mark.parametrize(
    ("message", "index", "lost"),
    [
        (KILLED, 0, (1,)),
        (FROZEN, 0, (1, 2)),
        (FROZEN, 1, (2,)),
        ("Matrix size-incompatible", 0, ()),
        (SILENT_CHIEF, 2, (0,)),
        (SILENT_CHIEF, 0, ()),
        (KILLED, 1, ()),
    ],
)
def test_the_lost_are_read_from_the_message(message, index, lost):
    assert lost_workers(message, Cluster(THREE, index)) == lost


@pytest.mark.parametrize(("message", "words"), [(KILLED, "was killed"), (FROZEN, "frozen")])
def test_the_error_names_the_worker(monkeypatch, message, words):
    monkeypatch.setenv("TF_CONFIG", Cluster(THREE, 0).to_tf_config())
    with pytest.raises(WorkerError, match=words) as caught, translate_worker_loss():
        raise tf.errors.UnavailableError(None, None, message)
    assert "worker 1 (b:1)" in str(caught.value) and caught.value.__cause__ is not None


def test_a_lost_server_of_one_program_has_no_script_that_could_have_ended(monkeypatch):
    monkeypatch.setenv(ONE_PROGRAM, Cluster(THREE, 0).to_tf_config())
    words = r"worker 1 \(b:1\), which hung up: it failed or was killed; or the network"
    with pytest.raises(WorkerError, match=words), translate_worker_loss():
        raise tf.errors.UnavailableError(None, None, KILLED)


def test_other_errors_pass(monkeypatch):
    for config in ("", Cluster(THREE, 0).to_tf_config()):
        monkeypatch.setenv("TF_CONFIG", config)
        with pytest.raises(tf.errors.InvalidArgumentError, match="shape"), translate_worker_loss():
            raise tf.errors.InvalidArgumentError(None, None, "shape")
