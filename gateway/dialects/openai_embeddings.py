"""POST /v1/embeddings: texts or their token ids in, one vector for each out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.chat import ChatRequest, Completion, Endpoint, Feature
from gateway.core.errors import InvalidRequest, TandemError
from gateway.dialects.base import Answering, StreamEncoder
from gateway.wire import fields
from gateway.wire import openai_shapes as shapes
from gateway.wire.openai_embeddings import write_embeddings

MAX_INPUTS = 2048
"""OpenAI's own limit."""
FORMATS = ("float", "base64")
READ = frozenset("model input dimensions encoding_format stream".split())


class OpenAIEmbeddings:
    """Embeddings, whole: there is nothing to stream."""

    name = "openai_embeddings"
    media_type = "application/json"
    stream_media_type = "application/json"

    def decode(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        fields.refuse_denied(body)
        model = fields.model(body)
        if fields.boolean(body, "stream"):
            raise InvalidRequest("Embeddings are not streamed.", param="stream")
        if (fields.text(body, "encoding_format") or "float") not in FORMATS:
            raise InvalidRequest(
                f"'encoding_format' is one of {', '.join(FORMATS)}.", param="encoding_format"
            )
        inputs = _inputs(body)
        needs = {Feature.EMBEDDINGS}
        if any(isinstance(each, tuple) for each in inputs):
            needs.add(Feature.TOKEN_INPUT)
        return ChatRequest(
            endpoint=Endpoint.EMBEDDINGS,
            dialect=self.name,
            model=model,
            inputs=inputs,
            dimensions=fields.integer(body, "dimensions", 1),
            features=frozenset(needs),
            extra={key: value for key, value in body.items() if key not in READ},
            body=body,
        )

    def encode(self, completion: Completion, answering: Answering, request: ChatRequest) -> bytes:
        base64 = request.body.get("encoding_format") == "base64"
        return write_embeddings(completion, answering.model, base64=base64)

    def encoder(self, answering: Answering, request: ChatRequest) -> StreamEncoder:
        raise AssertionError("decode refuses a stream of embeddings")

    def error(self, error: TandemError) -> bytes:
        return shapes.error_body(error)


def _inputs(body: Mapping[str, Any]) -> tuple[str | tuple[int, ...], ...]:
    """One text or list of token ids for each vector. Raises InvalidRequest."""
    given = body.get("input")
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list):
        raise fields.wrong_type("input", "a string or a list", given)
    if given and all(_is_token(item) for item in given):
        given = [given]
    if len(given) > MAX_INPUTS:
        raise InvalidRequest(f"'input' holds more than {MAX_INPUTS} inputs.", param="input")
    if not given or "" in given or [] in given:
        raise InvalidRequest("'input' must not be empty, nor hold an empty one.", param="input")
    if all(isinstance(item, str) for item in given):
        return tuple(given)
    if all(isinstance(item, list) and all(map(_is_token, item)) for item in given):
        return tuple(tuple(item) for item in given)
    raise InvalidRequest(
        "'input' must hold strings or lists of token ids, not a mixture.",
        param="input",
        code="invalid_type",
    )


def _is_token(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31
