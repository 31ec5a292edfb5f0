"""The misbehaving upstream by hand: `python -m tests.fakes.misbehaving --list`.

It prints its address and serves until Ctrl-C. Each request says which fault it wants, in the header
`x-fault`, else in its model's name (`fault/reset-at:40`, or just `reset-at:40`), so that a gateway
may have an upstream for each fault; `--plan a,b,c` gives the faults of the first requests in order,
and the last of them for the rest, whatever they ask for.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from tests.fakes.faults import FAULTS, fault, ok
from tests.fakes.upstream import Conversation, FakeUpstream, Script, reply


def by_request(plan: Sequence[str] = ()) -> Script:
    """A script that does what the plan says, or each request."""
    made: dict[str, Script] = {}  # kept, since some faults count
    left = list(plan)

    async def script(conversation: Conversation) -> None:
        request = conversation.request
        if request.method != "POST":
            listed = [{"id": name, "object": "model"} for name in FAULTS]
            await reply(200, {"object": "list", "data": listed})(conversation)
            return
        wanted = request.headers.get("x-fault") or str(request.json.get("model", ""))
        if left:
            wanted = left.pop(0) if len(left) > 1 else left[0]
        wanted = wanted.removeprefix("fault/")
        if wanted not in made:
            made[wanted] = fault(wanted) if wanted.partition(":")[0] in FAULTS else ok
        await made[wanted](conversation)

    return script


async def serve(port: int, plan: Sequence[str]) -> None:
    async with FakeUpstream(by_request(plan), port=port) as upstream:
        print(upstream.base_url, flush=True)  # noqa: T201 - whoever starts it needs the address
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--plan", default="", help="faults in order, with commas")
    parser.add_argument("--list", action="store_true", help="the faults, a line each")
    options = parser.parse_args()
    if options.list:
        for name, each in FAULTS.items():
            print(f"{name:<22}{each.about}")  # noqa: T201
        return
    plan = [each for each in options.plan.split(",") if each]
    for each in plan:
        fault(each)
    try:
        asyncio.run(serve(options.port, plan))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
