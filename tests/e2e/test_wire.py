"""The gateway's HTTP as hostile and careless clients meet it: raw requests, exact answers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.fakes.process import Serving

CHAT = "/v1/chat/completions"
BODY = {
    "model": "local",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 4,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def http(gateway: Serving) -> Iterator[httpx.Client]:
    with gateway.client() as client:
        yield client


def error(answer: httpx.Response) -> dict[str, object]:
    """The error object, after seeing that the answer has OpenAI's shape and an id."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    return dict(body["error"])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"base_url": "http://127.0.0.1:1"}, "base_url"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"n": 0}, "n"),
    ],
)
def test_bad_fields_are_named(http: httpx.Client, change: dict[str, object], param: str) -> None:
    """A field that is wrong or not allowed is a 400 whose `param` names it."""
    answer = http.post(CHAT, json={**BODY, **change})
    assert answer.status_code == 400
    assert error(answer)["param"] == param


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model":"local","model":"cloud"}',
        b'{"model":"local","temperature":NaN}',
        b'{"seed":' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'{"model":"\xff"}',
    ],
)
def test_bad_json_is_refused(http: httpx.Client, raw: bytes) -> None:
    """What is not one plain JSON object, or could be read two ways, is a 400."""
    answer = http.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert error(answer)["type"] == "invalid_request_error"


def test_large_bodies_are_refused(http: httpx.Client) -> None:
    """A body over the limit is a 413, told by its length or only by its bytes."""
    declared = http.post(
        CHAT, content=b" " * (9 << 20), headers={"content-type": "application/json"}
    )
    assert declared.status_code == 413
    assert error(declared)["code"] == "request_too_large"
    pieces = (b" " * 65536 for _ in range(150))
    chunked = http.post(CHAT, content=pieces, headers={"content-type": "application/json"})
    assert chunked.status_code == 413


def test_web_pages_are_kept_out(http: httpx.Client) -> None:
    """Without keys a foreign Host or Origin is refused, and so is a form's content type."""
    assert http.post(CHAT, json=BODY, headers={"host": "evil.example"}).status_code == 403
    answer = http.post(CHAT, json=BODY, headers={"origin": "https://evil.example"})
    assert (answer.status_code, error(answer)["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers
    plain = http.post(CHAT, content=json.dumps(BODY), headers={"content-type": "text/plain"})
    assert plain.status_code == 415
    packed = http.post(CHAT, json=BODY, headers={"content-encoding": "gzip"})
    assert packed.status_code == 415
    assert http.get("/v1/models", headers={"host": "evil.example"}).status_code == 403


def test_paths_and_methods(http: httpx.Client) -> None:
    """Unknown paths are 404 and wrong methods 405, in OpenAI's shape."""
    assert error(http.get("/v1/nothing"))["code"] == "unknown_path"
    assert http.get("/v1/nothing").status_code == 404
    assert http.get(CHAT).status_code == 405
    assert error(http.delete("/v1/models"))["code"] == "method_not_allowed"
    for path in ("/health", "/livez", "/readyz"):
        assert http.get(path).headers["x-request-id"].startswith("req_")


def test_a_get_may_be_a_head(http: httpx.Client) -> None:
    """HEAD answers as GET would, without the body: what `curl -I` and uptime checks send."""
    for path in ("/health", "/livez", "/readyz", "/v1/models/local", "/openapi.json"):
        whole, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content))
    assert http.head("/v1/nothing").status_code == 404
    assert http.head(CHAT).status_code == 405


def test_a_wrong_method_hears_the_right_one(http: httpx.Client) -> None:
    """A 405 names the method that is taken, in words and in `Allow`."""
    for answer, right in ((http.get(CHAT), "POST"), (http.delete("/v1/models/local"), "GET")):
        assert answer.headers["allow"] == right
        assert f"Use {right} here." in answer.text


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_a_message_that_says_nothing(http: httpx.Client, role: str) -> None:
    """No content, often a misspelt key, is a 400 with its place; an assistant's may be null."""
    for message in (
        {"role": role},
        {"role": role, "content": None},
        {"role": role, "contents": "a"},
    ):
        answer = http.post(CHAT, json={"model": "local", "messages": [message]})
        assert answer.status_code == 400
        assert error(answer)["param"] == "messages[0].content"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]
    body = {"model": "local", "messages": turns, "max_tokens": 1}
    assert http.post(CHAT, json=body).status_code == 200


def test_paths_without_v1_answer_too(http: httpx.Client) -> None:
    """llama.cpp's habits: /chat/completions and /completions are the same endpoints."""
    assert http.post("/chat/completions", json=BODY).status_code == 200
    prompt = {"model": "local", "prompt": "x", "max_tokens": 1}
    assert http.post("/completions", json=prompt).status_code == 200


def test_infill_as_llama_vim_reads_it(http: httpx.Client) -> None:
    """Compact JSON on one line, with the marks that llama.vim looks for in the raw bytes."""
    body = {
        "input_prefix": "def f(x):\n    return ",
        "input_suffix": "\n",
        "input_extra": [{"text": "import os", "filename": "a.py"}],
        "prompt": "",
        "n_predict": 8,
        "samplers": ["top_k", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
    }
    answer = http.post("/infill", json=body)
    assert answer.status_code == 200
    assert b'"content":"' in answer.content
    assert b"\n" not in answer.content
    flat = http.post(
        "/infill", json={**body, "response_fields": ["content", "timings/predicted_n"]}
    )
    assert set(flat.json()) == {"content", "timings/predicted_n"}
    warm = http.post("/infill", json={**body, "n_predict": 0, "response_fields": [""]})
    assert (warm.status_code, warm.json()) == (200, {})
    assert http.post("/infill", json={"input_prefix": "x"}).status_code == 400
    assert answer.json()["truncated"] is False
    long = {**body, "input_prefix": "x = 1\n" * 2000}
    assert http.post("/infill", json=long).json()["truncated"] is True


def test_headers_tell_the_plan(http: httpx.Client) -> None:
    """A whole answer's headers say route, tier, reason, cache and cost; a pin is called one."""
    answer = http.post(CHAT, json={**BODY, "model": "tandem-demo-target"})
    assert answer.headers["x-tandem-route"] == "tandem-demo-target"
    assert answer.headers["x-tandem-tier"] == "cloud"
    assert answer.headers["x-tandem-reason"] == "pin"
    assert answer.headers["x-tandem-cache"] in ("miss", "hit")
    assert answer.headers["x-tandem-cost-usd"] == "0"
    spec = http.post(CHAT, json={**BODY, "model": "tandem"})
    # By what earlier answers taught; these models are quick enough to go without a session.
    assert spec.headers["x-tandem-spec"].startswith(("companion", "stream;off"))


def test_repeated_request_hits_the_cache(http: httpx.Client) -> None:
    """A greedy request repeated says tier cache and returns the same text."""
    body = {**BODY, "messages": [{"role": "user", "content": "cache me"}]}
    first, second = http.post(CHAT, json=body), http.post(CHAT, json=body)
    assert (first.headers["x-tandem-cache"], second.headers["x-tandem-cache"]) == ("miss", "hit")
    assert second.headers["x-tandem-tier"] == "cache"
    assert first.json()["choices"] == second.json()["choices"]
    fresh = http.post(CHAT, json=body, headers={"cache-control": "no-cache"})
    assert fresh.headers["x-tandem-tier"] == "local"


def test_the_record_and_the_trace_agree(http: httpx.Client) -> None:
    """`x-tandem-trace: 1` puts the record before [DONE]; the same is found by its id."""
    body = {**BODY, "stream": True, "mirostat": 2}
    answer = http.post(CHAT, json=body, headers={"x-tandem-trace": "1"})
    assert answer.headers["x-tandem-ignored"] == "mirostat"
    refused = http.post(CHAT, json=body, headers={"x-tandem-strict-parameters": "true"})
    assert (refused.status_code, error(refused)["param"]) == (400, "mirostat")
    *_, comment, done, _ = answer.text.split("\n\n")
    assert done == "data: [DONE]"
    traced = json.loads(comment.removeprefix(": tandem "))
    found = http.get(f"/v1/requests/{answer.headers['x-request-id']}").json()
    assert traced == found
    assert found["tier"] in ("local", "cache")
    assert found["outcome"] == "ok"
    untraced = http.post(CHAT, json=body)
    assert ": tandem" not in untraced.text
    assert error(http.get("/v1/requests/req_0"))["code"] == "record_not_found"


def test_unknown_zone_fails_closed(http: httpx.Client) -> None:
    """A zone that we cannot read is a 400; one that everything satisfies changes nothing."""
    assert http.post(CHAT, json=BODY, headers={"x-tandem-zone": "moon"}).status_code == 400
    assert http.post(CHAT, json=BODY, headers={"x-tandem-zone": "machine"}).status_code == 200


def test_metrics_show_each_tier(http: httpx.Client) -> None:
    """After one request a mode, /metrics has a line for each tier."""
    for model in ("local", "cloud", "tandem"):
        http.post(CHAT, json={**BODY, "model": model}, headers={"cache-control": "no-cache"})
    # A render is reused for a second.
    deadline_reached = False
    for _ in range(300):
        text = http.get("/metrics").text
        deadline_reached = all(f'tier="{t}"' in text for t in ("local", "cloud", "speculative"))
        if deadline_reached:
            break
    assert deadline_reached


def test_openapi_names_the_proxy_paths(http: httpx.Client) -> None:
    """/openapi.json describes what the hot path takes."""
    document = http.get("/openapi.json").json()
    assert {CHAT, "/v1/completions", "/infill", "/v1/models"} <= set(document["paths"])
    assert "ChatCompletionRequest" in document["components"]["schemas"]
