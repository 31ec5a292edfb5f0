"""A server in vLLM's shapes over a real llama.cpp model, honest or wrong in one planted way.

Prompts as text, as token ids and as lists of either; `return_token_ids`; `/tokenize`, `/version`,
`/v1/models` with `max_model_len`. The model is a LlamaCppBackend's engine, so what it says is
really computed; strict, so that it is the same bytes whoever else is served. Such an engine shares
no cells, so the prefix cache is one in the books only: whole blocks of 16 ids that were seen, as
vLLM counts them. Not spoken: whatever the gateway's tests do not ask for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from backends.engine.backend import LlamaCppBackend
from backends.engine.protocol import Job, Output, SamplerSettings
from tests.fakes.serving import serving

PLANTS = (
    "ignores ids",
    "echoes",
    "off by one",
    "adds bos",
    "wrong counts",
    "no usage",
    "no ids",
    "no cache",
    "one noise",
    "other tokenizer",
    "no tokenize",
    "thinks",
    "wild ids",
)
"""Ways to be wrong, each of which a probe has to see."""
BLOCK = 16
DEFAULT_TOKENS = 16
"""What vLLM writes on /v1/completions unless told."""


@dataclass
class VllmLike:
    """The server as an ASGI application. `fail` is a status that all answers have, after so many
    rounds of prompts those have one too; `cut_after` breaks a stream after so many chunks, `pace_s`
    apart; `plant` is one of PLANTS. `served` are the bodies that were answered, by path; `open` the
    generations that are running.
    """

    model: LlamaCppBackend
    name: str = "real"
    version: str = "0.11.0"
    plant: str = ""
    fail: int = 0
    fail_rounds_after: int = -1
    cut_after: int | None = None
    pace_s: float = 0.0
    key: str = ""
    served: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    open: int = 0
    read: int = 0
    wrote: int = 0
    blocks: set[tuple[int, ...]] = field(default_factory=set)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, body = scope["path"], await _body(receive)
        asked = json.loads(body) if body else {}
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            await _json(send, 401, _error("no such key", 401))
            return
        self.served.append((path, asked))
        match scope["method"], path:
            case "GET", "/health":
                await _json(send, 200, {})
            case "GET", "/version":
                await _json(send, 200, {"version": self.version})
            case "GET", "/v1/models":
                entry = {"id": self.name, "object": "model", "max_model_len": 512}
                await _json(send, 200, {"object": "list", "data": [entry]})
            case "POST", "/tokenize" if self.plant != "no tokenize":
                ids = await self._tokenized(asked)
                await _json(send, 200, {"tokens": ids, "count": len(ids), "max_model_len": 512})
            case "POST", "/v1/completions" | "/v1/chat/completions":
                await self._generate(asked, receive, send, chat="chat" in path)
            case _:
                await _json(send, 404, {"detail": "Not Found"})

    def rounds(self) -> list[list[list[int]]]:
        """The lists of prompts that were sent to be verified."""
        return [
            body["prompt"]
            for path, body in self.served
            if path == "/v1/completions" and isinstance(body.get("prompt"), list)
            if body["prompt"] and isinstance(body["prompt"][0], list)
        ]

    async def _generate(
        self, asked: dict[str, Any], receive: Any, send: Any, *, chat: bool
    ) -> None:
        prompts = await self._prompts(asked, chat=chat)
        if self.fail or 0 <= self.fail_rounds_after < len(self.rounds()):
            await _json(send, self.fail or 500, _error("planted", self.fail or 500))
            return
        if "unheard_of" in asked:
            await _json(send, 400, _error("unheard_of is not heard of", 400))
            return
        generating = asyncio.create_task(
            self._stream(asked, prompts, send, chat=chat)
            if asked.get("stream")
            else self._whole(asked, prompts, send, chat=chat)
        )
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({generating, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (generating, leaving):
                task.cancel()
            results = await asyncio.gather(generating, leaving, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _whole(
        self, asked: dict[str, Any], prompts: list[list[int]], send: Any, *, chat: bool
    ) -> None:
        answers = await asyncio.gather(*(self._answer(asked, ids, chat) for ids in prompts))
        if self.plant == "off by one":
            answers = [*answers[1:], answers[0]]
        choices, usage = [], _Usage()
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            usage.add(prompt, answer)
            text, ids = answer.text, answer.tokens
            choice: dict[str, Any] = {"index": index, "finish_reason": answer.finish}
            if chat:
                choice["message"] = self._message(text)
            else:
                choice["text"] = text
            if asked.get("return_token_ids") and self.plant != "no ids":
                choice["token_ids"] = ids
                if not chat:
                    choice["prompt_token_ids"] = prompt
            choices.append(choice)
        document: dict[str, Any] = {
            "id": "x",
            "object": "y",
            "model": self.name,
            "choices": choices,
        }
        if chat and asked.get("return_token_ids"):
            document["prompt_token_ids"] = prompts[0]
        await _json(send, 200, document | self._counted(usage))

    def _message(self, text: str) -> dict[str, Any]:
        if self.plant == "thinks":
            return {"role": "assistant", "content": None, "reasoning_content": text}
        return {"role": "assistant", "content": text}

    async def _stream(
        self, asked: dict[str, Any], prompts: list[list[int]], send: Any, *, chat: bool
    ) -> None:
        await _begin(send, 200, "text/event-stream")
        usage, sent, prompt = _Usage(), 0, prompts[0]
        answer = _Answer()
        if chat:
            await _frame(send, {"choices": [{"index": 0, "delta": {"role": "assistant"}}]})
        async for text, tokens, finish in self._steps(asked, prompt, answer, chat):
            if self.cut_after is not None and sent >= self.cut_after:
                return  # uvicorn closes what was left open
            await asyncio.sleep(self.pace_s)
            choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
            choice |= {"delta": self._message(text)} if chat else {"text": text}
            if asked.get("return_token_ids") and self.plant != "no ids":
                choice["token_ids"] = tokens
                if sent == 0:
                    choice["prompt_token_ids"] = prompt
            named = {"id": "x", "model": self.name, **self._named()}
            await _frame(send, {**named, "choices": [choice]})
            sent += 1
        usage.add(prompt, answer)
        if (asked.get("stream_options") or {}).get("include_usage"):
            await _frame(send, {"choices": [], **self._counted(usage)})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _answer(self, asked: dict[str, Any], prompt: list[int], chat: bool) -> _Answer:
        answer = _Answer()
        async for _ in self._steps(asked, prompt, answer, chat):
            pass
        return answer

    async def _steps(
        self, asked: dict[str, Any], prompt: list[int], answer: _Answer, chat: bool
    ) -> AsyncIterator[tuple[str, list[int], str | None]]:
        """(text, ids, finish) of each step; `answer` has their sum afterwards."""
        room = 512 - len(prompt)
        limit = asked.get("max_tokens") or asked.get("max_completion_tokens")
        sampler = SamplerSettings(
            temperature=asked.get("temperature", 1.0),
            top_p=asked.get("top_p", 1.0),
            seed=7 if self.plant == "one noise" else asked.get("seed"),
            frequency_penalty=asked.get("frequency_penalty", 0.0),
        )
        stop = asked.get("stop") or []
        job = Job(
            id=0,
            tokens=tuple(self._read(prompt)),
            max_tokens=min(limit or (room if chat else DEFAULT_TOKENS), room),
            sampler=sampler,
            stop=tuple(s.encode() for s in ([stop] if isinstance(stop, str) else stop)),
            strict=True,
            prediction=await self._prediction(asked),
        )
        answer.cached = self._cached(prompt)
        if self.plant == "echoes" and not chat:
            answer.text = b"".join(await self.model.prompts.pieces(prompt)).decode()
            yield answer.text, [], None
        self.open += 1
        sequence = await self.model.engine.submit(job)
        try:
            async for output in sequence:
                self._note(output, answer)
                yield output.text.decode(), list(output.tokens), output.finish
        finally:
            self.open -= 1
            await sequence.aclose()

    def _note(self, output: Output, answer: _Answer) -> None:
        answer.text += output.text.decode()
        answer.tokens += output.tokens
        answer.finish = output.finish
        if output.finish is not None:
            answer.prediction = output.prediction
            self.read += output.prompt_tokens
            self.wrote += output.completion_tokens

    def _named(self) -> dict[str, Any]:
        """What each chunk says of the server."""
        return {}

    def _cached(self, prompt: list[int]) -> int:
        """Ids at the prompt's beginning that were read before; all of its blocks are now."""
        ends = range(BLOCK, len(prompt), BLOCK)  # the last id is always computed
        found = [tuple(prompt[:end]) for end in ends]
        known = next((i for i, block in enumerate(found) if block not in self.blocks), len(found))
        self.blocks.update(found)
        return known * BLOCK

    def _read(self, prompt: list[int]) -> list[int]:
        """The ids that the model is given, by a server that may do something else with them."""
        return prompt[::-1] if self.plant == "ignores ids" else prompt

    async def _prediction(self, asked: dict[str, Any]) -> tuple[int, ...]:
        return ()

    def _counted(self, usage: _Usage) -> dict[str, Any]:
        if self.plant == "no usage":
            return {}
        prompt = usage.prompt + (3 if self.plant == "wrong counts" else 0)
        cached = 0 if self.plant == "no cache" else usage.cached
        counts: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": usage.completion,
            "total_tokens": prompt + usage.completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        return {"usage": counts}

    async def _prompts(self, asked: dict[str, Any], *, chat: bool) -> list[list[int]]:
        if chat:
            return [await self._rendered(asked["messages"])]
        given = asked["prompt"]
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        ids = [
            list(await self.model.prompts.text(each)) if isinstance(each, str) else each
            for each in given
        ]
        return [[0, *each] for each in ids] if self.plant == "adds bos" else ids

    async def _rendered(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return list(await self.model.prompts.chat([dict(each) for each in messages]))

    async def _tokenized(self, asked: dict[str, Any]) -> list[int]:
        if "messages" in asked:
            if self.plant == "wild ids":
                return [10**6] * 20
            return await self._rendered(asked["messages"])
        text = asked["prompt"]
        if self.plant == "other tokenizer":
            return list(text.encode())
        if asked.get("add_special_tokens", True):
            return list(await self.model.prompts.text(text))
        return list(await self.model.prompts.plain(text, "prompt"))


@dataclass
class _Answer:
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    cached: int = 0
    prediction: tuple[int, int] = (0, 0)


@dataclass
class _Usage:
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    prediction: tuple[int, int] = (0, 0)

    def add(self, prompt: Sequence[int], answer: _Answer) -> None:
        self.prompt += len(prompt)
        self.completion += len(answer.tokens)
        self.cached += answer.cached
        held, failed = self.prediction
        self.prediction = (held + answer.prediction[0], failed + answer.prediction[1])


@asynccontextmanager
async def vllm_like(model: LlamaCppBackend, **options: Any) -> AsyncIterator[tuple[VllmLike, str]]:
    """The server and its address."""
    server = VllmLike(model, **options)
    async with serving(server) as address:
        yield server, address


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _begin(send: Any, status: int, media_type: str) -> None:
    headers = [(b"content-type", media_type.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _json(send: Any, status: int, document: Any) -> None:
    await _begin(send, status, "application/json")
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


async def _frame(send: Any, document: Any) -> None:
    data = b"data: " + json.dumps(document).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})


def _error(message: str, status: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "code": status}}
