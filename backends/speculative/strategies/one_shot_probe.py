"""Does an upstream take `prediction` and keep its own mind? Three short answers tell.

asked plainly          →  T
with T as prediction   →  T again, and most of it counted as accepted
with another text      →  T again, for a prediction changes no token
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backends.openai import OpenAIBackend
from backends.speculative.strategies.base import Bill, Surprise
from gateway.core.chat import Usage
from gateway.core.errors import UpstreamRejected
from gateway.core.exchange import Call
from gateway.wire.openai_usage import usage_of

QUESTION = "Count from one to ten in words, separated by commas. Say nothing else."
OTHER = "A grey heron stands in the shallow water and waits for a fish to come by."
ANSWER_TOKENS = 40
GUESSED_PROMPT = 40
"""Tokens that the question may take with a provider's own additions, before one has told."""


@dataclass(frozen=True, slots=True)
class _Told:
    text: str
    usage: Usage
    fingerprint: str


async def probe(target: OpenAIBackend, bill: Bill) -> str:
    """The version that answered, as it calls itself. Raises Surprise and TandemError."""
    counts = target.profile.predicts.counts
    plain = await _ask(target, bill, None)
    if not plain.text:
        raise Surprise("no-answer")
    right = await _ask(target, bill, plain.text)
    _same(right, plain)
    if counts:
        _counted(right.usage)
        if 2 * right.usage.accepted_prediction_tokens < right.usage.completion_tokens:
            raise Surprise("prediction-unused")
    wrong = await _ask(target, bill, OTHER)
    if OTHER in wrong.text:
        raise Surprise("repeats-prediction")
    _same(wrong, plain)
    if counts and 2 * wrong.usage.accepted_prediction_tokens > wrong.usage.completion_tokens:
        raise Surprise("wrong-counts")
    return plain.fingerprint


async def _ask(target: OpenAIBackend, bill: Bill, prediction: str | None) -> _Told:
    bill.may(GUESSED_PROMPT + ANSWER_TOKENS)
    body: dict[str, Any] = {
        "model": target.upstream.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
    }
    if prediction is not None:
        body["prediction"] = {"type": "content", "content": prediction}
    call = Call(id="probe", zone=target.upstream.zone)
    try:
        document = await target.raw.ask("chat/completions", body, call)
    except UpstreamRejected:
        raise Surprise("refused") from None
    usage = usage_of(document, target.profile.usage_paths)
    if usage is None or not usage.prompt_tokens or not usage.completion_tokens:
        bill.tokens += GUESSED_PROMPT + ANSWER_TOKENS
        raise Surprise("no-usage")
    bill.tokens += usage.prompt_tokens + usage.completion_tokens
    fingerprint = document.get("system_fingerprint")
    return _Told(_text(document), usage, fingerprint if isinstance(fingerprint, str) else "")


def _text(document: dict[str, Any]) -> str:
    try:
        text = document["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise Surprise("shape") from None
    return text if isinstance(text, str) else ""


def _same(told: _Told, plain: _Told) -> None:
    if told.text != plain.text:
        raise Surprise("text-changed")


def _counted(usage: Usage) -> None:
    held, failed = usage.accepted_prediction_tokens, usage.rejected_prediction_tokens
    if held + failed == 0:
        raise Surprise("uncounted")
    if held < 0 or failed < 0 or held > usage.completion_tokens:
        raise Surprise("wrong-counts")
