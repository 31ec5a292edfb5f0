"""May prefix fan-out be used on a server? Its tokenizer, its prompts of ids, its order, its books.

Each check is there for a way in which a server can look right and be wrong: ids read as text, a BOS
put before them, the prompt said again, answers one place off, siblings that share their noise,
counts that do not add up, a chat that is not what its ids are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.openai import OpenAIBackend
from backends.speculative.seams import Tokenizer
from backends.speculative.strategies.base import MOST_PROBE_TOKENS, Bill, Surprise
from backends.speculative.strategies.fanout_wire import read_round, round_body, token_ids
from gateway.core.chat import Usage
from gateway.core.errors import UpstreamBroken, UpstreamRejected
from gateway.core.exchange import Call
from gateway.wire.openai_usage import usage_of

CANARY = (
    "Tandem: naïve façade, Ærøskøbing, 東京, привет, مرحبا, 🙂👩‍🚀 e\u0301\u200b\n\n"
    "  two  spaces\t\ttabs   \n12345 67,890.12 0x7f 3.14e-5\ndef f(x):\n    return x**2 != [1]\n"
    "don't I'll we've THEY'RE camelCase snake_case --flag=value <b>&amp;</b> \\n \"quoted\" ```"
)
"""What tokenizers disagree about: accents, other scripts, blanks, digits, contractions, code."""
TEXT = "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and"
QUESTION = "Say yes."
STEPS = 4
COPIES = 8
BEGINNING = 4
HOT = 2.0


class FanoutProbe:
    """One probe of one server. `run` says whether sampled answers may be fanned out too."""

    def __init__(self, target: OpenAIBackend, tokenizer: Tokenizer, bill: Bill) -> None:
        self._target = target
        self._tokenizer = tokenizer
        self._bill = bill
        self._shared = {"model": target.upstream.model, "return_token_ids": True}
        self._call = Call(id="probe", zone=target.upstream.zone)

    async def run(self) -> bool:
        """Raises Surprise, and TandemError where nothing was learnt."""
        try:
            return await self._run()
        except UpstreamRejected:
            raise Surprise("refused") from None
        except UpstreamBroken:
            raise Surprise("shape") from None

    async def _run(self) -> bool:
        theirs = await self._ids(prompt=CANARY, add_special_tokens=False)
        if tuple(theirs) != await self._tokenizer.plain(CANARY, "prompt"):
            raise Surprise("tokenizer")
        if b"".join(await self._tokenizer.pieces(theirs)) != CANARY.encode():
            raise Surprise("tokenizer")
        prompt = await self._ids(prompt=TEXT, add_special_tokens=True)
        said = await self._step_by_step(prompt)
        await self._side_by_side(prompt, said)
        await self._as_a_chat()
        return await self._independent(prompt[:BEGINNING])

    async def _ids(self, **asked: Any) -> list[int]:
        """What the server makes of a text or messages; tokenizing costs no tokens."""
        try:
            told = await self._target.raw.ask(
                "/tokenize", {"model": self._shared["model"], **asked}, self._call
            )
        except UpstreamRejected:
            raise Surprise("no-tokenize") from None
        return token_ids(told, "tokens")

    async def _step_by_step(self, prompt: list[int]) -> list[int]:
        """Some tokens of an ordinary stream: what the prompts side by side must say too."""
        self._bill.may(len(prompt) + STEPS)
        body = {**self._shared, "prompt": prompt, "max_tokens": STEPS, "temperature": 0}
        body["stream_options"] = {"include_usage": True}
        said: list[int] = []
        text, usage, echoed = "", None, None
        async for chunk in self._target.raw.chunks("completions", body, self._call):
            usage = usage_of(chunk) or usage
            for choice in chunk.get("choices") or ():
                said += token_ids(choice)
                text += choice.get("text") or ""
                echoed = choice.get("prompt_token_ids") or echoed
        self._charge(usage, len(prompt), len(said))
        if echoed != prompt:
            raise Surprise("no-token-ids" if echoed is None else "prompt-changed")
        if not 3 <= len(said) <= STEPS:
            raise Surprise("no-answer" if len(said) < 3 else "wrong-counts")
        if not await self._spells(said, text):
            raise Surprise("echo" if TEXT in text else "text-changed")
        return said

    async def _side_by_side(self, prompt: list[int], said: list[int]) -> None:
        drafts = said[:2]
        body = round_body({**self._shared, "temperature": 0}, prompt, drafts)
        # Beside them a prompt that goes astray: it must not lead the others there.
        body["prompt"].append([*prompt, 1 if said[0] != 1 else 2])
        read = sum(map(len, body["prompt"]))
        self._bill.may(read + 4)
        document = await self._target.raw.ask("completions", body, self._call)
        found = read_round(document, 4)
        self._charge(found.usage, read, 4)
        if [each.token for each in found.said[:3]] != said[:3]:
            raise Surprise("other-tokens")
        details = document["usage"].get("prompt_tokens_details")
        if isinstance(details, dict) and not found.usage.cached_tokens:
            raise Surprise("no-prefix-cache")

    async def _as_a_chat(self) -> None:
        messages = [{"role": "user", "content": QUESTION}]
        prompt = await self._ids(messages=messages, add_generation_prompt=True)
        self._bill.may(2 * len(prompt) + 3)
        body = {**self._shared, "messages": messages, "max_tokens": 2, "temperature": 0}
        chat = await self._target.raw.ask("chat/completions", body, self._call)
        try:
            choice = chat["choices"][0]
            text = choice["message"]["content"] or ""
        except (LookupError, TypeError):
            raise Surprise("shape") from None
        said = token_ids(choice)
        self._charge(usage_of(chat), len(prompt), len(said))
        if token_ids(chat, "prompt_token_ids") != prompt:
            raise Surprise("prompt-changed")
        ended = choice.get("finish_reason") == "stop"
        if not said or not await self._spells(said[: len(said) - ended], text):
            raise Surprise("text-changed")  # thoughts, or tools, are taken out of it
        alone = round_body({**self._shared, "temperature": 0}, prompt, ())
        found = read_round(await self._target.raw.ask("completions", alone, self._call), 1)
        self._charge(found.usage, len(prompt), 1)
        if found.said[0].token != said[0]:
            raise Surprise("other-tokens")

    async def _independent(self, prompt: list[int]) -> bool:
        """Whether equal prompts are sampled with noise of their own."""
        read = COPIES * len(prompt)
        if self._bill.tokens + read + COPIES > MOST_PROBE_TOKENS:
            return False
        body = {**self._shared, "temperature": HOT, "max_tokens": 1, "prompt": [prompt] * COPIES}
        found = read_round(await self._target.raw.ask("completions", body, self._call), COPIES)
        self._charge(found.usage, read, COPIES)
        return len({each.token for each in found.said}) > 1

    async def _spells(self, tokens: Sequence[int], text: str) -> bool:
        """Whether a text is these tokens', short of a character that is not whole yet."""
        spelt = b"".join(await self._tokenizer.pieces(tokens)).decode("utf-8", "ignore")
        return text.rstrip("\ufffd") == spelt.rstrip("\ufffd")

    def _charge(self, usage: Usage | None, prompt: int, completion: int) -> None:
        """Book what a request cost by our own count; theirs must be the same."""
        self._bill.tokens += prompt + completion
        if usage is None:
            raise Surprise("no-usage")
        if (usage.prompt_tokens, usage.completion_tokens) != (prompt, completion):
            raise Surprise("wrong-counts")
