"""The OpenAPI schema of the proxy paths: documentation, checked by a test against the hot path.

Requests are validated by the dialects, not by these models; unknown fields are carried through, so
every model allows them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ChatMessage(_Open):
    role: str = Field(min_length=1)
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(_Open):
    include_usage: bool | None = None


class _Sampling(_Open):
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    grammar: str | None = None


class ChatCompletionRequest(_Sampling):
    """A chat request. `model` is an upstream's name or an alias: auto, local, cloud, tandem."""

    model: str = Field(min_length=1)
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionRequest(_Sampling):
    """A text completion; with `suffix`, fill-in-the-middle by the model's own tokens."""

    model: str = Field(min_length=1)
    prompt: str | list[str] | list[int] | list[list[int]]
    suffix: str | None = None
    max_tokens: int | None = Field(16, ge=0)
    best_of: int | None = Field(None, ge=1, le=128)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)


class EmbeddingRequest(_Open):
    """Embeddings. Each input has the model's context for itself; nothing is ever truncated."""

    model: str = Field(min_length=1)
    input: str | list[str] | list[int] | list[list[int]]
    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    stream: Literal[False] | None = None


class InfillSnippet(_Open):
    text: str
    filename: str | None = None


class InfillRequest(_Open):
    """llama.cpp's own fill-in-the-middle request, as llama.vim sends it."""

    input_prefix: str
    input_suffix: str
    prompt: str | None = None
    input_extra: list[InfillSnippet] | None = None
    n_predict: int | None = Field(None, ge=-1)
    temperature: float | None = Field(None, ge=0, le=5)
    top_k: int | None = Field(None, ge=-1)
    top_p: float | None = Field(None, ge=0, le=1)
    stream: bool | None = None
    response_fields: list[str] | None = None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every failure of every path."""

    error: ErrorDetail


PROXY_REQUESTS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/infill": InfillRequest,
}


def proxy_paths() -> tuple[dict[str, Any], dict[str, Any]]:
    """(paths, component schemas) to add to the admin application's OpenAPI document."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    template = "#/components/schemas/{model}"
    models: list[type[BaseModel]] = [*PROXY_REQUESTS.values(), ErrorBody]
    for model in models:
        schema = model.model_json_schema(ref_template=template)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    error = {"$ref": template.format(model=ErrorBody.__name__)}
    for path, model in PROXY_REQUESTS.items():
        body = {"$ref": template.format(model=model.__name__)}
        paths[path] = {
            "post": {
                "summary": (model.__doc__ or "").strip().split("\n")[0],
                "operationId": path.strip("/").replace("/", "_"),
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": body}},
                },
                "responses": {
                    "200": {
                        "description": "The answer, whole or as server-sent events.",
                        "content": {"application/json": {}, "text/event-stream": {}},
                    },
                    "default": {
                        "description": "An error in OpenAI's shape.",
                        "content": {"application/json": {"schema": error}},
                    },
                },
            }
        }
    return paths, schemas
