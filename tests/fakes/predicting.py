"""The same server in OpenAI's shapes: chat with `prediction`, verified by a real llama.cpp model.

What held of a prediction and what did not is counted as OpenAI counts it: what failed is part of
`completion_tokens`, for it is billed. Wrong in one planted way, if that is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from backends.engine.backend import LlamaCppBackend
from tests.fakes.serving import serving
from tests.fakes.vllm_like import VllmLike, _Answer, _Usage

PREDICTION_PLANTS = (
    "refuses prediction",
    "repeats prediction",
    "ignores prediction",
    "uncounted",
    "impossible counts",
    "no usage",
    "moody",
)
"""Ways to be wrong with a prediction, each of which a probe has to see."""


@dataclass
class Predicting(VllmLike):
    """`fingerprint` is the `system_fingerprint` of its answers."""

    fingerprint: str = "fp_1"

    async def _prompts(self, asked: dict[str, Any], *, chat: bool) -> list[list[int]]:
        prediction = asked.get("prediction")
        if prediction is not None and self.plant == "refuses prediction":
            asked["unheard_of"] = True
        return await super()._prompts(asked, chat=chat)

    async def _prediction(self, asked: dict[str, Any]) -> tuple[int, ...]:
        prediction = asked.get("prediction")
        if prediction is None or self.plant == "ignores prediction":
            return ()
        return await self.model.prompts.plain(prediction["content"], "prediction")

    async def _steps(
        self, asked: dict[str, Any], prompt: list[int], answer: _Answer, chat: bool
    ) -> AsyncIterator[tuple[str, list[int], str | None]]:
        predicted = (asked.get("prediction") or {}).get("content", "")
        if predicted and self.plant == "repeats prediction":
            answer.text, answer.finish = predicted, "stop"
            answer.tokens = list(await self.model.prompts.plain(predicted, "prediction"))
            answer.prediction = (len(answer.tokens), 0)
            yield predicted, answer.tokens, "stop"
            return
        if predicted and self.plant == "moody":
            prompt = [*prompt, *prompt]
        async for step in super()._steps(asked, prompt, answer, chat):
            yield step

    def _named(self) -> dict[str, Any]:
        return {"system_fingerprint": self.fingerprint}

    def _counted(self, usage: _Usage) -> dict[str, Any]:
        counts = super()._counted(usage)
        if not counts:
            return counts
        held, failed = usage.prediction
        if self.plant == "uncounted":
            held = failed = 0
        if self.plant == "impossible counts":
            held = 10 * usage.completion + 10
        counts["usage"]["completion_tokens"] += failed
        counts["usage"]["total_tokens"] += failed
        counts["usage"]["completion_tokens_details"] = {
            "accepted_prediction_tokens": held,
            "rejected_prediction_tokens": failed,
        }
        return {**self._named(), **counts}


@asynccontextmanager
async def predicting(
    model: LlamaCppBackend, **options: Any
) -> AsyncIterator[tuple[Predicting, str]]:
    """The server and its address."""
    server = Predicting(model, **options)
    async with serving(server) as address:
        yield server, address
