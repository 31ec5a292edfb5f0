"""A local log that `tandem router train --labels` learns from: features, signals, feedback.

One JSON line for each answered request (`request`), for what a later turn says of it (`again`) and
for what its client says of it (`feedback`). By default no line has a prompt, an answer or a key: a
prompt is there as 41 numbers and, if it is public, as the sorted 20-bit hashes of its word pairs.
Those tell nobody what was said, but whoever has the file can test a guess against them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from backends.evidence import Evidence
from gateway.core.events import Collector
from gateway.core.exchange import Exchange, ExchangeRecord
from gateway.core.routing import Facts, Tier, Zone
from gateway.rotating import RotatingFile
from gateway.signals import LastTurns, Turn, fault, turn
from router_policies.learned.text import view

if TYPE_CHECKING:
    from router_policies.learned.artifact import Artifact

logger = logging.getLogger("tandem.labels")

MAX_WAITING = 256
REMEMBERED = 4096
"""Feedback that is known to be written, so that saying it again costs no line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A request that was answered, as it waits for the writer."""

    record: ExchangeRecord
    zone: Zone
    text: str
    turn: Turn | None
    facts: Facts
    action: str
    collector: Collector | None
    evidence: Evidence
    artifact: Artifact | None


@dataclass(frozen=True, slots=True)
class Said:
    """What a client says of one of its answers, 0 to 1."""

    id: str
    key_id: str
    score: float


class LabelLog:
    """Lines on a bounded file, computed and written by a thread of its own.

    Nobody waits for it: beyond `max_waiting` requests are dropped and counted. `content` keeps the
    text of public requests, too. Raises OSError if the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        *,
        content: bool = False,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._file = RotatingFile(path, max_bytes)
        self._content = content
        self._max_waiting = max_waiting
        self._turns = LastTurns()
        self._said: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._waiting: deque[Answer | Said] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self.dropped = 0
        self._artifact: Artifact | None = None
        # A daemon: a disk that does not answer must not keep the process from ending.
        self._writer = threading.Thread(target=self._write_all, name="label-log", daemon=True)
        self._writer.start()

    def answered(
        self,
        exchange: Exchange,
        facts: Facts,
        kind: str,
        collector: Collector | None,
        record: ExchangeRecord,
        artifact: Artifact | None,
    ) -> None:
        """Take a request whose answer has ended. `kind` is that of the backend asked first.

        `collector` is None for a kept answer: that says something only of the earlier one.
        """
        request = exchange.request
        text = view(request)
        if text is None:
            return
        now = turn(
            request,
            id=record.id,
            key_id=record.key_id,
            text=text,
            asked=exchange.arrived,
            answered=time.monotonic(),
        )
        self._take(
            Answer(
                record=record,
                zone=exchange.zone or Zone.MACHINE,
                text=text,
                turn=now,
                facts=facts,
                action="cascade" if kind == "cascade" else record.tier.value,
                collector=collector,
                evidence=Evidence(request),
                artifact=artifact,
            )
        )

    def feedback(self, id: str, key_id: str, score: float) -> None:
        """Take what a client says of its answer; of several the last one counts."""
        if self._said.get((key_id, id)) == score:
            return
        self._said[key_id, id] = score
        self._said.move_to_end((key_id, id))
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        self._take(Said(id, key_id, score))

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, if the disk takes it in time, and stop."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._writer.join(timeout_s)

    def _take(self, each: Answer | Said) -> None:
        with self._wake:
            if self._closed or len(self._waiting) >= self._max_waiting:
                self.dropped += 1
                return
            self._waiting.append(each)
            self._wake.notify()

    def _write_all(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if not self._waiting:
                    break
                each = self._waiting.popleft()
            try:
                for line in self._lines(each):
                    self._file.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            except (OSError, orjson.JSONEncodeError):  # disk full; a lone surrogate in a name
                self.dropped += 1
            except Exception as error:  # the outermost edge of this thread: a log must go on
                self.dropped += 1
                logger.error("a label could not be written: %s", type(error).__name__)
        self._file.close()

    def _lines(self, each: Answer | Said) -> list[dict[str, Any]]:
        if isinstance(each, Said):
            ref = {"id": each.id, "key_id": each.key_id}
            return [{"kind": "feedback", **ref, "score": each.score}]
        lines = []
        again = self._turns.again(each.turn) if each.turn is not None else None
        if again is not None:
            ref = {"id": again[0], "key_id": each.record.key_id}
            lines.append({"kind": "again", **ref, "how": again[1]})
        # What nobody answered, or a cache did, teaches nothing about an upstream.
        if each.collector is not None and each.record.tier is not Tier.NONE:
            lines.append(self._request(each, each.collector))
        return lines

    def _request(self, each: Answer, collector: Collector) -> dict[str, Any]:
        # numpy and two megabytes of vectors are for those only who keep labels, and off the loop.
        from router_policies.learned.artifact import DEFAULT, load
        from router_policies.learned.features import features
        from router_policies.learned.text import words
        from router_policies.learned.wording import hashed

        artifact = each.artifact or self._artifact
        if artifact is None:
            artifact = self._artifact = load(DEFAULT)
        record, facts, public = each.record, each.facts, each.zone is Zone.PUBLIC
        found = words(each.text)
        line: dict[str, Any] = {
            "kind": "request",
            "id": record.id,
            "key_id": record.key_id,
            "created": round(record.created, 3),
            "zone": each.zone.label,
            "artifact": artifact.digest,
            "numbers": [round(float(n), 5) for n in features(each.text, found)],
            "action": each.action,
            "tier": record.tier.value,
            "reason": record.reason,
            # Nothing is decided by chance yet; exploring will say so here.
            "propensity": 1.0,
            "outcome": record.outcome,
            "finish": record.finish_reason,
            "fault": fault(each.evidence, collector) if record.outcome == "ok" else None,
            "latency_s": round(record.duration_s, 3),
            "ttft_s": None if record.ttft_s is None else round(record.ttft_s, 3),
        }
        if "router.score" in facts:
            line["score"] = round(float(facts["router.score"]), 6)
            weak, strong = facts["router.weak_ok"], facts["router.strong_ok"]
        else:
            said = artifact.router.assess(each.text)
            line["score"] = None
            weak, strong = said.weak_ok, said.strong_ok
        line["weak_ok"], line["strong_ok"] = round(float(weak), 6), round(float(strong), 6)
        if record.cascade is not None:
            line["escalated"] = record.cascade["escalated"]
        if record.speculation is not None and record.speculation.get("drafted"):
            told = record.speculation
            line["accepted"] = round(told["accepted"] / told["drafted"], 4)
        if public:
            line["pairs"] = hashed(artifact.router.wording.ids(found))
            if self._content:
                line["prompt"] = each.text
        return line
