"""The privacy detector: what it costs, what it finds, and what it wrongly takes for private.

    python -m tests.bench.detector [--quick]

Benign are our own sources and pages in pieces of 2 KiB, and the texts of tests/fakes/private_data;
their findings are printed, for some of them (an address in a test) are right. Private is generated:
right in form and check digits, so recall here is of the forms that we know.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median

from gateway.core.chat import ChatRequest, Endpoint
from gateway.core.routing import Zone
from gateway.detect.detector import PatternDetector
from gateway.detect.patterns import KINDS, patterns
from gateway.detect.scan import scan
from tests.fakes.private_data import BENIGN, POSITIVES, SUFFIXES

ROOT = Path(__file__).resolve().parents[2]
PIECE = 2048
ALL = patterns(KINDS, SUFFIXES)


def sources() -> dict[str, str]:
    """Code and prose of this repository, without what is about private data itself."""
    found = {}
    for kind in ("*.py", "*.md", "*.yaml"):
        for folder in ("gateway", "backends", "router_policies", "deploy"):
            for path in sorted((ROOT / folder).rglob(kind)):
                if "detect" not in path.parts:
                    found[str(path.relative_to(ROOT))] = path.read_text()
    return found


def cpu_us(step: Callable[[], object], repeats: int) -> float:
    """CPU microseconds of one step, the median of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(repeats):
            step()
        rounds.append((time.process_time() - start) / repeats * 1e6)
    return median(rounds)


def conversation(messages: int) -> ChatRequest:
    words = "The quick brown fox jumps over the lazy dog near the river bank at noon. "
    turns = [
        {"role": "assistant" if n % 2 else "user", "content": f"{n}: " + words * 6}
        for n in range(messages)
    ]
    return ChatRequest(
        endpoint=Endpoint.CHAT, dialect="openai_chat", model="m", body={"messages": turns}
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    numbers: dict[str, float] = {}

    pieces = [
        (name, text[at : at + PIECE])
        for name, text in sources().items()
        for at in range(0, len(text), PIECE)
    ]
    wrong: Counter[str] = Counter()
    for name, piece in pieces:
        for kind in scan(piece, ALL):
            wrong[kind] += 1
            print(f"  {kind:6} in {name}")
    benign = sum(bool(scan(text, ALL)) for text in BENIGN)
    print(f"\nbenign: {benign} of {len(BENIGN)} texts, {sum(wrong.values())} of {len(pieces)}")
    print(f"  pieces of our own sources: {dict(wrong)}")
    numbers["detector_false_texts"] = benign
    numbers["detector_source_findings_per_1000"] = 1000 * sum(wrong.values()) / len(pieces)

    count = 200 if quick else 2000
    for kind, make in POSITIVES.items():
        random = Random(7)
        found = sum(kind in scan(f"see {make(random)} there", ALL) for _ in range(count))
        numbers[f"detector_recall_{kind}"] = found / count
        print(f"recall {kind:6} {found / count:.4f} of {count}")

    prose = "\n".join(BENIGN[:10]) * 40
    code = "\n".join(text for name, text in sources().items() if name.endswith(".py"))[:262144]
    for name, text in (("prose", prose), ("code", code)):
        cost = cpu_us(lambda text=text: scan(text, ALL), 2 if quick else 8)  # type: ignore[misc]
        numbers[f"detector_us_per_kb_{name}"] = cost / len(text) * 1024
        print(f"scan of {name}: {cost / len(text) * 1024:.1f} us per KB, all six kinds")

    async def looks() -> None:
        detector = PatternDetector(ALL, dict.fromkeys(KINDS, Zone.MACHINE))
        for messages in (2, 20):
            request = conversation(messages)
            await detector.look(request)
            rounds = []
            for _ in range(5):
                start = time.process_time()
                for _ in range(200):
                    await detector.look(request)
                rounds.append((time.process_time() - start) / 200 * 1e6)
            size = len(json.dumps(request.body))
            numbers[f"detector_warm_us_{messages}"] = median(rounds)
            print(f"warm look, {messages} messages of {size} B: {median(rounds):.1f} us")
        await detector.aclose()

    asyncio.run(looks())
    print(json.dumps({key: round(value, 4) for key, value in numbers.items()}))


if __name__ == "__main__":
    main()
