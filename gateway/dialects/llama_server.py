"""POST /infill, as llama.vim and llama.vscode send it to llama.cpp's server.

llama.vim looks at the raw bytes for `"content":"` before it parses, so the answer is compact JSON
on one line (clients.md trap 1); `response_fields` come back as flat keys (trap 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.core.chat import ChatRequest, Completion, Endpoint, Feature, Sampling, Snippet, Usage
from gateway.core.errors import InvalidRequest, TandemError
from gateway.core.events import Event, Finish, TextDelta, UsageReport
from gateway.dialects.base import Answering
from gateway.wire import fields
from gateway.wire import openai_shapes as shapes
from gateway.wire.sse import encode_comment, encode_data

DEFAULT_MODEL = "auto"
"""llama.vim names no model."""

DEFAULT_PREDICT = 128
READ = frozenset(
    "model input_prefix input_suffix input_extra prompt n_predict temperature top_k top_p min_p "
    "seed stop stream response_fields n_cmpl samplers".split()
)
_STOP_TYPES = {"stop": "eos", "length": "limit"}


class Infill:
    """Fill-in-the-middle in llama.cpp's own shape."""

    name = "llama_server"
    media_type = "application/json"
    stream_media_type = "text/event-stream; charset=utf-8"

    def decode(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        fields.refuse_denied(body)
        for name in ("input_prefix", "input_suffix"):
            if not isinstance(body.get(name), str):
                raise InvalidRequest(f"{name!r} must be a string.", param=name)
        needs = {Feature.FIM}
        if (fields.integer(body, "n_cmpl", 1, 16) or 1) > 1:
            needs.add(Feature.N)
        predict = fields.integer(body, "n_predict", -1)
        fields.strings(body, "response_fields", at_most=64) if _named(body) else ()
        return ChatRequest(
            endpoint=Endpoint.INFILL,
            dialect=self.name,
            model=fields.text(body, "model") or DEFAULT_MODEL,
            prompt=body["input_prefix"] + (fields.text(body, "prompt") or ""),
            suffix=body["input_suffix"],
            snippets=tuple(_snippets(body)),
            sampling=Sampling(
                max_tokens=DEFAULT_PREDICT if predict is None or predict < 0 else predict,
                temperature=fields.number(body, "temperature", 0, 5),
                top_k=fields.integer(body, "top_k", -1),
                top_p=fields.number(body, "top_p", 0, 1),
                min_p=fields.number(body, "min_p", 0, 1),
                seed=fields.integer(body, "seed", -(2**63)),
                stop=fields.strings(body, "stop", at_most=shapes.MAX_STOPS),
                infill="infill" in fields.strings(body, "samplers", at_most=32),
            ),
            stream=fields.boolean(body, "stream"),
            include_usage=True,
            features=frozenset(needs),
            extra={key: value for key, value in body.items() if key not in READ},
            body=body,
        )

    def encode(self, completion: Completion, answering: Answering, request: ChatRequest) -> bytes:
        choice = completion.choices[0] if completion.choices else None
        text = choice.text if choice else ""
        reason = (choice.finish_reason if choice else None) or "stop"
        whole = _final(text, reason, completion.usage or Usage(), answering)
        wanted = request.body.get("response_fields")
        return orjson.dumps(_pick(whole, wanted) if isinstance(wanted, list) else whole)

    def encoder(self, answering: Answering, request: ChatRequest) -> InfillStream:
        return InfillStream(answering)

    def error(self, error: TandemError) -> bytes:
        return shapes.error_body(error)


class InfillStream:
    """One stream of native events; the last one has `stop: true`, and there is no [DONE]."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._reason = "stop"
        self._usage = Usage()

    def encode(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                piece = {"index": 0, "content": event.text, "stop": False}
                return encode_data(orjson.dumps(piece))
            case Finish():
                self._reason = event.reason
            case UsageReport():
                self._usage = event.usage
            case _:
                pass
        return b""

    def comment(self, text: str) -> bytes:
        return encode_comment(text)

    def error(self, error: TandemError) -> bytes:
        return encode_data(shapes.error_body(error))

    def end(self) -> bytes:
        return encode_data(orjson.dumps(_final("", self._reason, self._usage, self._answering)))


def _named(body: Mapping[str, Any]) -> bool:
    # The ring warm-up sends [""]: no field at all.
    return body.get("response_fields") not in (None, [""])


def _snippets(body: Mapping[str, Any]) -> list[Snippet]:
    found = []
    for at, item in enumerate(fields.objects(body, "input_extra")):
        text, filename = item.get("text"), item.get("filename") or ""
        if not isinstance(text, str) or not isinstance(filename, str):
            where = f"input_extra[{at}]"
            raise InvalidRequest(f"'{where}' needs a string 'text'.", param=where)
        found.append(Snippet(text=text, filename=filename))
    return found


def _final(text: str, reason: str, usage: Usage, answering: Answering) -> dict[str, Any]:
    prompt_ms = (answering.ttft_s or 0.0) * 1e3
    predicted_ms = max((answering.duration_s or 0.0) * 1e3 - prompt_ms, 0.0)
    fresh = usage.prompt_tokens - usage.cached_tokens
    return {
        "index": 0,
        "content": text,
        "stop": True,
        "model": answering.model,
        "tokens_predicted": usage.completion_tokens,
        "tokens_evaluated": usage.prompt_tokens,
        "tokens_cached": usage.cached_tokens,
        "truncated": usage.cut_tokens > 0,
        "stop_type": _STOP_TYPES.get(reason, "none"),
        "timings": {
            "prompt_n": fresh,
            "prompt_ms": round(prompt_ms, 3),
            "prompt_per_second": _rate(fresh, prompt_ms),
            "predicted_n": usage.completion_tokens,
            "predicted_ms": round(predicted_ms, 3),
            "predicted_per_second": _rate(usage.completion_tokens, predicted_ms),
        },
    }


def _rate(tokens: int, ms: float) -> float:
    return round(tokens / ms * 1e3, 3) if ms > 0 else 0.0


def _pick(whole: Mapping[str, Any], wanted: list[str]) -> dict[str, Any]:
    picked: dict[str, Any] = {}
    for path in wanted:
        value: Any = whole
        for part in path.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            picked[path] = value
    return picked
