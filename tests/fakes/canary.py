"""Private requests in a network of this process alone: what the kernel saw of them, as JSON.

Run as `unshare -rn python -m tests.fakes.canary`. There is no way out of that network; a "cloud" is
an address of it, so that a leak would arrive and be seen, and would not merely fail.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import sys
from typing import Any

import httpx

from tests.fakes.faults import FIRST, fault, ok
from tests.fakes.fronting import CHAT, fronting
from tests.fakes.upstream import Conversation, FakeUpstream

CLOUD = "203.0.113.1"
"""RFC 5737: an address that nobody has."""
CANARY = "canary-4d1f"
EMAIL = f"{CANARY} jane.doe@acme.io"
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8913, 0x8914, 0x8916, 1

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": f'{{"a":"{EMAIL}"}}'}}
SAID = {"role": "user", "content": "hello"}


def bring_up() -> None:
    """The loopback device, with the cloud's address as its second one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        up = struct.unpack("16sH14x", flags)[1] | IFF_UP
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", up))
        address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(CLOUD))
        fcntl.ioctl(any_socket, SIOCSIFADDR, struct.pack("16s16s", b"lo:0", address))


def kernel() -> dict[str, int]:
    """Connections that this network's processes have begun, and datagrams that they have sent."""
    with open("/proc/net/snmp") as file:
        lines = [line.split() for line in file]
    rows = {(a[0], k): int(v) for a, b in zip(lines[::2], lines[1::2], strict=True)
            for k, v in zip(a[1:], b[1:], strict=True)}  # fmt: skip
    return {"tcp": rows["Tcp:", "ActiveOpens"], "udp": rows["Udp:", "OutDatagrams"]}


def private_requests() -> list[tuple[str, dict[str, str], dict[str, Any]]]:
    """(path, headers, body): kept here by a header, a rule, or what a detector finds in them."""
    stay = {"x-tandem-zone": "machine"}
    found: list[tuple[str, dict[str, str], dict[str, Any]]] = []
    for model in ("auto", "cloud", "faraway", "race", "going-on", "local"):
        for stream in (True, False):
            plain = {"model": model, "stream": stream, "messages": [SAID]}
            found += [
                (CHAT, stay, plain),
                (CHAT, {}, {**plain, "messages": [{"role": "user", "content": EMAIL}]}),
                (CHAT, {}, {**plain, "user": EMAIL}),
                (
                    CHAT,
                    {},
                    {
                        **plain,
                        "messages": [
                            SAID,
                            {"role": "assistant", "content": None, "tool_calls": [CALL]},
                            {"role": "tool", "tool_call_id": "c", "content": "fine"},
                        ],
                    },
                ),
                ("/v1/completions", {}, {"model": model, "stream": stream, "prompt": EMAIL}),
            ]
        found.append(("/v1/embeddings", {}, {"model": model, "input": ["x", EMAIL]}))
    return found


async def main() -> dict[str, Any]:
    arrived: list[bytes] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(await reader.read(65536))
        writer.close()

    async def near(conversation: Conversation) -> None:
        """Now and then it breaks, so that a fallback would be wanted."""
        turn = len(inside.requests) % 4
        await (ok, fault("status:503"), fault("reset-unanswered"), ok)[turn](conversation)

    cloud = await asyncio.start_server(record, CLOUD, 0)
    port = cloud.sockets[0].getsockname()[1]
    answers: list[dict[str, Any]] = []
    async with FakeUpstream(near) as inside:
        upstreams = {
            "cloud": f"http://{CLOUD}:{port}/v1",
            "faraway": "https://api.cloud.example/v1",
            "local": inside.base_url,
        }
        more = {
            "race": {"kind": "race", "of": ["local", "cloud"], "after": 0.01},
            "going-on": {"kind": "continuation", "of": ["local", "cloud"], "same_model": True},
        }
        async with fronting(
            upstreams, zones={"local": "machine"}, more=more, privacy={"detect": ["email"]}
        ) as front:
            limits = httpx.Limits(max_keepalive_connections=0)
            base_url = front.http.base_url
            async with httpx.AsyncClient(base_url=base_url, limits=limits, trust_env=False) as http:
                before, asked = kernel(), inside.connections
                for path, headers, body in private_requests():
                    answer = await http.post(path, json=body, headers=headers)
                    raw = answer.text
                    answers.append(
                        {
                            "model": body["model"],
                            "status": answer.status_code,
                            "unavailable": "local_unavailable" in raw,
                            "told": FIRST in raw,
                        }
                    )
                after, asked = kernel(), inside.connections - asked
                leaked = len(arrived)
                public = {"model": "cloud", "messages": [SAID]}
                await http.post(CHAT, json=public)
    cloud.close()
    return {
        "answers": answers,
        "opened": after["tcp"] - before["tcp"],
        "expected": len(answers) + asked,
        "datagrams": after["udp"] - before["udp"],
        "leaked": leaked,
        "arrived": sum(b"hello" in each for each in arrived),
    }


if __name__ == "__main__":
    bring_up()
    json.dump(asyncio.run(main()), sys.stdout)
