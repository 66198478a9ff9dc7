"""Messages between launchers."""

import asyncio

import pytest

from kparallel.handshake import NoMessageError
from kparallel.launcher.channel import LONGEST, Channel


def received(send, token="", other="", number=1):
    """Return what one end reads of what `send` does with the other, its channel or its bare writer."""

    async def run():
        found = asyncio.get_running_loop().create_future()

        async def answer(reader, writer):
            channel = Channel(reader, writer, token, 4)
            try:
                assert channel.peer == "127.0.0.1"
                found.set_result([await channel.read() for _ in range(number)])
            except NoMessageError as error:
                found.set_exception(error)
            await channel.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=LONGEST)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        channel = Channel(reader, writer, other, 4)
        send(channel, writer)
        await channel.close()
        try:
            return await asyncio.wait_for(found, 30)
        finally:
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
