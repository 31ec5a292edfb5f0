"""One question of `tandem demo`: sent as a client sends it, timed as a client sees it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.limits.keys import ENV_KEY

TRACE = ": tandem "
DATA = "data: "
ANSWER_WITHIN_S = 120.0
FRESH = {"cache-control": "no-cache"}
UNKEPT = {"cache-control": "no-cache, no-store"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. Times are seconds from the sending; `record` is the gateway's own account.

    `error` is a sentence where there was no answer.
    """

    text: str = ""
    ttft_s: float | None = None
    total_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def tokens(self) -> int:
        return int(self.record.get("usage", {}).get("completion_tokens", 0))

    @property
    def rate(self) -> float | None:
        """Tokens a second over the whole request, its prompt and its way there and back included.

        The pace after the first token would flatter a stream that is held back and then bursts.
        """
        return self.tokens / self.total_s if self.tokens and self.total_s else None


def client(base_url: str) -> httpx.Client:
    """A client of one gateway, with the key from the environment if there is one."""
    key = os.environ.get(ENV_KEY)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(
        base_url=base_url, headers=headers, timeout=ANSWER_WITHIN_S, trust_env=False
    )


def ask(
    http: httpx.Client, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> Answer:
    """Stream one answer. Never raises for a failure of the gateway: the answer says it."""
    started = time.perf_counter()
    try:
        with http.stream(
            "POST",
            path,
            json={**body, "stream": True},
            headers={**headers, "x-tandem-trace": "1"},
        ) as response:
            if response.status_code != 200:
                response.read()
                return Answer(error=_complaint(response), headers=dict(response.headers))
            answer = _read(response, started)
    except httpx.HTTPError as error:
        return Answer(error=f"{type(error).__name__}: {error}"[:200])
    return answer if answer.record or answer.error else _with_record(http, answer)


def _read(response: httpx.Response, started: float) -> Answer:
    pieces: list[str] = []
    record: dict[str, Any] = {}
    ttft_s: float | None = None
    error = ""
    last = started
    for line in response.iter_lines():
        if line.startswith(TRACE):
            record = json.loads(line.removeprefix(TRACE))
        elif line.startswith(DATA) and line != "data: [DONE]":
            data = json.loads(line.removeprefix(DATA))
            piece = _text(data)
            if piece:
                last = time.perf_counter()
                ttft_s = last - started if ttft_s is None else ttft_s
                pieces.append(piece)
            if "error" in data:
                error = str(data["error"].get("message"))
    return Answer(
        text="".join(pieces),
        ttft_s=ttft_s,
        total_s=last - started,
        headers=dict(response.headers),
        record=record,
        error=error,
    )


def _with_record(http: httpx.Client, answer: Answer) -> Answer:
    """The record by its id, where no trace came with the stream."""
    found = http.get(f"/v1/requests/{answer.headers.get('x-request-id', '')}")
    record = found.json() if found.status_code == 200 else {}
    return Answer(
        text=answer.text,
        ttft_s=answer.ttft_s,
        total_s=answer.total_s,
        headers=answer.headers,
        record=record,
    )


def _text(data: Mapping[str, Any]) -> str:
    """The text of one event, in any of the three wires."""
    if "content" in data:
        return str(data["content"])
    choices = data.get("choices") or [{}]
    return str(choices[0].get("text") or choices[0].get("delta", {}).get("content") or "")


def _complaint(response: httpx.Response) -> str:
    try:
        said = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = response.text[:200]
    return f"{response.status_code}: {said}"
