"""Frames between gateway and worker."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from backends.engine.protocol import (
    MAX_FRAME,
    FrameError,
    Job,
    Output,
    Ready,
    SamplerSettings,
    encode,
    read,
    receive,
)


def test_what_is_sent_is_received() -> None:
    """Jobs, outputs and the first frame come back equal from the wire."""
    job = Job(
        id=3,
        tokens=(1, 2),
        max_tokens=5,
        sampler=SamplerSettings(temperature=0.5, seed=7),
        stop=(b"\xff",),
        role="target",
        strict=True,
    )
    output = Output(id=3, base=4, tokens=(9, 8), text=b"x", source="draft", finish="stop")
    ready = Ready(vocab=1, context=2, slots=3, threads=4, load_s=0.5, meta={"a": "b"})
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode(job.pack()) + encode({"out": [output]}) + encode(ready.pack()))
        submit, step, first = receive(theirs), receive(theirs), receive(theirs)
    assert submit is not None and step is not None and first is not None
    assert Job.unpack(submit) == job
    assert Output.unpack(step["out"][0]) == output
    assert Ready.unpack(first) == ready


def test_the_end_is_none() -> None:
    """End-of-file is no error, even inside a frame: the other side has died."""
    for data in (b"", b"\x05", encode({"a": 1})[:-1]):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(data)
            ours.close()
            assert receive(theirs) is None


@pytest.mark.parametrize(
    "data", [struct.pack("<I", MAX_FRAME + 1), b"\x01\0\0\0\xc1", b"\x01\0\0\0\x01"]
)
def test_what_is_no_frame(data: bytes) -> None:
    """Too long, not msgpack, or not a map: the connection is given up."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        with pytest.raises(FrameError):
            receive(theirs)

    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        with pytest.raises(FrameError):
            await read(reader)

    asyncio.run(main())
