"""The messages of the rendezvous, with and without a token."""

import json

import pytest

from kparallel.handshake import Messages, NoMessageError

SAID = [{"handshake": {"version": "1"}}, {"ready": True}, {"gave_up": "it waited 3 s"}]


@pytest.mark.parametrize("token", ["", "secret"])
@pytest.mark.parametrize("said", SAID)
def test_what_one_worker_writes_another_reads(said, token):
    line = Messages(1, 3, token).write(said)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and b"secret" not in line
    assert Messages(0, 3, token).read(line) == {"worker": 1, **said}


@pytest.mark.parametrize(("ours", "theirs", "told"), [("a", "b", "another token"), ("a", "", "it has no token")])
def test_a_message_under_another_token_is_not_believed(ours, theirs, told):
    with pytest.raises(NoMessageError, match=told):
        Messages(0, 2, ours).read(Messages(1, 2, theirs).write({"ready": True}))


def test_a_message_that_was_changed_is_not_believed():
    message = json.loads(Messages(1, 3, "secret").write({"gave_up": "it waited 3 s"}))
    for changed in ({"worker": 2}, {"gave_up": "it waited 4 s"}, {"seal": "0" * 64}):
        with pytest.raises(NoMessageError):
            Messages(0, 3, "secret").read(json.dumps(message | changed).encode())
