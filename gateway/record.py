"""Where records go: the latest ones by id, for the key that made them, and one log line each."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict, deque
from typing import Any, BinaryIO

import orjson

from gateway.core.exchange import ExchangeRecord
from gateway.ledger import counterfactual

CAPACITY = 4096
MAX_WAITING = 10_000
LONGEST_WORD = 256


class RecordStore:
    """The last `capacity` records in memory. The oldest goes first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        # By key and id: a client that picks its own request ids can neither read nor push out
        # what another key's request left.
        self._records: OrderedDict[tuple[str, str], ExchangeRecord] = OrderedDict()

    def add(self, record: ExchangeRecord) -> None:
        at = record.key_id, record.id
        self._records[at] = record
        self._records.move_to_end(at)
        if len(self._records) > self._capacity:
            self._records.popitem(last=False)

    def get(self, id: str, key_id: str) -> ExchangeRecord | None:
        """The record, or None when it is gone, never was, or another key made it."""
        return self._records.get((key_id, id))


def to_json(record: ExchangeRecord) -> dict[str, Any]:
    """The record as an API answer and a log line have it. Seconds become milliseconds."""
    usage = record.usage
    elsewhere = counterfactual(record)
    return {
        "id": record.id,
        "created": record.created,
        "endpoint": record.endpoint,
        "model": record.model[:LONGEST_WORD],
        "stream": record.stream,
        "tenant": record.tenant,
        "key_id": record.key_id,
        "zone": record.zone,
        "upstream": record.upstream,
        "upstream_model": record.upstream_model,
        "tier": record.tier.value,
        "reason": record.reason,
        "rule": record.rule,
        "score": record.score,
        "balance": record.balance,
        "cache": record.cache,
        "attempts": [
            {"upstream": each.upstream, "result": each.result, "ms": _ms(each.seconds)}
            for each in record.attempts
        ],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "cut_tokens": usage.cut_tokens,
            "accepted_prediction_tokens": usage.accepted_prediction_tokens,
            "rejected_prediction_tokens": usage.rejected_prediction_tokens,
            "estimated": usage.estimated,
        },
        "continued": record.continued,
        "approximate": record.approximate,
        "finish_reason": record.finish_reason,
        "outcome": record.outcome,
        "error": record.error,
        "status": record.status,
        "decide_ms": _ms(record.decide_s),
        "ttft_ms": _ms(record.ttft_s),
        "duration_ms": _ms(record.duration_s),
        "inter_token_ms": _ms(record.inter_token_s),
        "cost_usd": record.cost_usd if record.cost_known else None,
        "cost_estimated": record.cost_estimated if record.cost_known else None,
        "avoided_usd": record.avoided_usd,
        "all_cloud_usd": None if elsewhere is None else elsewhere.all_cloud,
        "all_local_usd": None if elsewhere is None else elsewhere.all_local,
        "energy_j": record.energy_j,
        "energy_estimated": None if record.energy_j is None else record.energy_estimated,
        "ignored": list(record.ignored),
        "found": list(record.found),
        "observed": list(record.observed),
        "speculation": record.speculation,
        "cascade": record.cascade,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


class JsonLog:
    """One JSON line per request on a byte stream, written by a thread of its own.

    The loop never waits for a slow disk or a full pipe: at most `max_waiting` lines wait, and what
    comes beyond is counted in `dropped`, as is what the stream refuses.
    """

    def __init__(self, stream: BinaryIO | None = None, *, max_waiting: int = MAX_WAITING) -> None:
        self._stream = sys.stdout.buffer if stream is None else stream
        self._max_waiting = max_waiting
        self._waiting: deque[ExchangeRecord] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self.dropped = 0
        # A daemon: a pipe that nobody reads must not keep the process from ending.
        self._writer = threading.Thread(target=self._write_all, name="request-log", daemon=True)
        self._writer.start()

    def write(self, record: ExchangeRecord) -> None:
        """Take a record. Returns at once."""
        with self._wake:
            if self._closed or len(self._waiting) >= self._max_waiting:
                self.dropped += 1
                return
            self._waiting.append(record)
            self._wake.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, if the stream takes it in time, and stop. The stream stays open."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._writer.join(timeout_s)

    def _write_all(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                batch = list(self._waiting)
                self._waiting.clear()
                if not batch:
                    return
            try:
                self._stream.write(b"".join(map(_line, batch)))
                self._stream.flush()
            except (OSError, ValueError):  # disk full, pipe gone, or the stream was closed
                with self._wake:
                    self.dropped += len(batch)


def _line(record: ExchangeRecord) -> bytes:
    try:
        return orjson.dumps(to_json(record), option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # a client's model name may hold a lone surrogate
        return orjson.dumps(
            {"id": repr(record.id), "outcome": record.outcome, "error": "unprintable"},
            option=orjson.OPT_APPEND_NEWLINE,
        )
