"""Records are found by the key that made them, and logging them holds nobody up."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

from gateway.core.chat import Usage
from gateway.core.exchange import Attempt, ExchangeRecord, RecordDraft
from gateway.core.routing import Tier
from gateway.record import JsonLog, RecordStore, to_json


def record(**changes: object) -> ExchangeRecord:
    draft = RecordDraft(
        id="req-1",
        endpoint="chat",
        model="auto",
        stream=True,
        tenant="web",
        key_id="aaaaaaaa",
        zone="public",
        created=1_700_000_000.25,
        upstream="big",
        tier=Tier.CLOUD,
        attempts=(Attempt(upstream="big", result="ok", seconds=0.25),),
        usage=Usage(prompt_tokens=3, completion_tokens=4),
        outcome="ok",
        ttft_s=0.125,
        duration_s=1.5,
        cost_usd=0.5,
        cost_known=True,
    )
    return draft.freeze()._replace(**changes)


class StuckStream(io.BytesIO):
    """A pipe whose reader has stopped, until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.released = threading.Event()

    def write(self, line: Any) -> int:
        self.entered.set()
        assert self.released.wait(20)
        return super().write(line)


class FullDisk(io.BytesIO):
    def write(self, line: Any) -> int:
        raise OSError(28, "No space left on device")


def lines(stream: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_only_the_key_that_made_it_finds_a_record() -> None:
    """The same id under another key is another record, or none."""
    store = RecordStore()
    store.add(record())
    assert store.get("req-1", "aaaaaaaa") == record()
    assert store.get("req-1", "bbbbbbbb") is None
    store.add(record(key_id="bbbbbbbb", model="other"))
    assert store.get("req-1", "aaaaaaaa") == record()


def test_the_store_is_bounded() -> None:
    """Beyond its capacity the oldest record goes."""
    store = RecordStore(capacity=3)
    for i in range(5):
        store.add(record(id=f"req-{i}"))
    found = [store.get(f"req-{i}", "aaaaaaaa") is not None for i in range(5)]
    assert found == [False, False, True, True, True]


def test_json_has_every_fact() -> None:
    """Each field of a record is in its JSON, in seconds-free names, and the JSON is plain."""
    said = to_json(record())
    renamed = {
        "decide_s": "decide_ms",
        "ttft_s": "ttft_ms",
        "duration_s": "duration_ms",
        "inter_token_s": "inter_token_ms",
    }
    wanted = {renamed.get(name, name) for name in ExchangeRecord._fields}
    elsewhere = {"all_cloud_usd", "all_local_usd"}  # what `others` would have cost
    assert wanted - {"cost_known", "others"} | elsewhere == said.keys()
    assert json.loads(json.dumps(said)) == said
    assert (said["ttft_ms"], said["duration_ms"]) == (125.0, 1500.0)
    assert said["attempts"] == [{"upstream": "big", "result": "ok", "ms": 250.0}]


def test_an_unknown_cost_is_null() -> None:
    """A cost that is not known is said to be null, not zero."""
    assert to_json(record(cost_known=False, cost_usd=None))["cost_usd"] is None
    assert to_json(record(cost_known=True, cost_usd=0.0))["cost_usd"] == 0.0


def test_one_line_per_request() -> None:
    """Every record becomes one line of JSON, in order, whatever its model was called."""
    stream = io.BytesIO()
    log = JsonLog(stream)
    names = ["auto", "two\nlines", 'quo"te', "x" * 1000, "é"]
    for at, name in enumerate(names):
        log.write(record(id=f"req-{at}", model=name))
    log.close()
    found = lines(stream)
    assert [line["id"] for line in found] == [f"req-{i}" for i in range(len(names))]
    assert found[1]["model"] == "two\nlines"
    assert found[3]["model"] == "x" * 256
    assert log.dropped == 0


def test_text_that_cannot_be_written_does_not_end_the_log() -> None:
    """A record with a lone surrogate leaves a line that says so, and the next one is whole."""
    stream = io.BytesIO()
    log = JsonLog(stream)
    log.write(record(model="\ud800"))
    log.write(record(id="req-2"))
    log.close()
    assert [line["error"] for line in lines(stream)] == ["unprintable", None]


def test_a_stuck_stream_holds_nobody_up() -> None:
    """While the stream is stuck, write returns, lines beyond the bound are counted as dropped."""
    stream = StuckStream()
    log = JsonLog(stream, max_waiting=2)
    log.write(record(id="first"))
    assert stream.entered.wait(20)
    for i in range(5):
        log.write(record(id=f"req-{i}"))
    assert log.dropped == 3
    stream.released.set()
    log.close(20)
    assert [line["id"] for line in lines(stream)] == ["first", "req-0", "req-1"]


def test_closing_does_not_wait_for_a_stuck_stream() -> None:
    """close gives up on a stream that takes nothing, and later records are dropped."""
    stream = StuckStream()
    log = JsonLog(stream)
    log.write(record())
    assert stream.entered.wait(20)
    log.close(0.0)
    log.write(record())
    assert log.dropped == 1
    stream.released.set()


def test_a_full_disk_costs_lines_only() -> None:
    """A stream that refuses loses its lines, counted, and raises nothing."""
    log = JsonLog(FullDisk())
    log.write(record())
    log.close(20)
    assert log.dropped == 1
