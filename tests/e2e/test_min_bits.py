"""A demand for precision, from the header to the refusal."""

from __future__ import annotations

from tests.fakes.process import Serving


def test_a_request_may_refuse_models_of_few_bits(gateway: Serving) -> None:
    """The draft has 8.5 bits a weight: 8 are met, 16 are refused, and the header is named."""
    body = {
        "model": "tandem-demo-draft",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 1,
    }
    with gateway.client() as client:
        statuses = []
        for bits in ("8", "16"):
            reply = client.post(
                "/v1/chat/completions", json=body, headers={"x-tandem-min-bits": bits}
            )
            statuses.append(reply.status_code)
        assert statuses == [200, 400]
        assert reply.json()["error"]["param"] == "x-tandem-min-bits"
