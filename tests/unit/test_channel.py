"""Messages between launchers."""

import asyncio

import pytest

from kparallel.handshake import NoMessageError
from kparallel.launcher.channel import LONGEST, Channel


def received(send, token="", other="", number=1, silence=20.0, others_silence=20.0):
    """Return what one end reads of what `send` does with the other, its channel or its bare writer."""

    async def run():
        found = asyncio.get_running_loop().create_future()

        async def answer(reader, writer):
            channel = Channel(reader, writer, token, silence)
            try:
                assert channel.peer == "127.0.0.1"
                found.set_result([await channel.read() for _ in range(number)])
            except NoMessageError as error:
                found.set_exception(error)
            await channel.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=LONGEST)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        channel = Channel(reader, writer, other, others_silence)
        sent = send(channel, writer)
        if sent is not None:
            await sent
        else:
            await channel.close()
        try:
            return await asyncio.wait_for(found, 30)
        finally:
            await channel.close()
            server.close()

    return asyncio.run(run())


@pytest.mark.parametrize("token", ["", "secret"])
def test_messages_arrive_in_order_and_then_the_end(token):
    def send(channel, _):
        channel.send({"hello": 1})
        channel.send({"checkpoint": "written", "epoch": 2})

    expected = [{"hello": 1}, {"checkpoint": "written", "epoch": 2}, None]
    assert received(send, token, token, 3) == expected


@pytest.mark.parametrize(("token", "other"), [("secret", ""), ("", "secret"), ("secret", "other")])
def test_a_launcher_with_another_token_is_none(token, other):
    with pytest.raises(NoMessageError, match="KPARALLEL_TOKEN"):
        received(lambda channel, _: channel.send({"hello": 1}), token, other)


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\n", b"[1, 2]\n", b"\xff\n", b"[" * 9999 + b"\n"])
def test_what_is_no_message_is_refused(line):
    with pytest.raises(NoMessageError, match="no message of kparallel's"):
        received(lambda _, writer: writer.write(line))


def test_half_a_message_is_none():
    assert received(lambda _, writer: writer.write(b'{"hello": 1}')) == [None]


def test_an_end_that_says_nothing_is_lost_though_its_system_answers():
    async def frozen(channel, writer):
        """The connection stays open."""

    assert received(frozen, silence=0.1) == [None]


def test_an_end_that_says_that_it_is_there_is_waited_for():
    async def late(channel, writer):
        said, send = [], channel.send
        channel.send = lambda message: (said.append(message), send(message))
        async with channel.taking_part():
            while len(said) < 50:  # More than the silence that the reader bears: one each 50 ms.
                await asyncio.sleep(0.01)
        send({"hello": 1})

    assert received(late, silence=2.0, others_silence=0.2) == [{"hello": 1}]


def test_a_token_may_be_any_bytes():
    token = "\udcff"  # As an environment variable that is no UTF-8 is read.
    assert received(lambda channel, _: channel.send({"hello": 1}), token, token) == [{"hello": 1}]
