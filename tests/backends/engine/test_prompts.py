"""The prompt helper: templates, tokens, and the limits on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.engine.prompts import Prompts
from gateway.core.errors import EngineFailed, InvalidRequest
from tests.fakes.gguf import byte_characters, write_vocabulary

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HUGE = "{{ ('x' * 999999999) * 99 }}"
pytestmark = pytest.mark.usefixtures("llama_cpp")


def ids(text: str) -> list[int]:
    """Of plain text, in the vocabulary of fakes/gguf.py."""
    return [7 + byte for byte in text.encode()]


@asynccontextmanager
async def prompts(
    tmp_path: Path, *, template: str = CHATML, fim: bool = True, limit_s: float = 5.0
) -> AsyncIterator[Prompts]:
    path = write_vocabulary(tmp_path / "vocabulary.gguf", template=template, fim=fim)
    helper = Prompts(path, limit_s=limit_s)
    try:
        await helper.start()
        yield helper
    finally:
        await helper.aclose()


def test_a_conversation(tmp_path: Path) -> None:
    """Messages go through the model's own template, and its markers become single tokens."""

    async def main() -> None:
        async with prompts(tmp_path) as helper:
            said = await helper.chat([{"role": "user", "content": "hé"}])
            assert list(said) == [1, *ids("user\nhé"), 2, *ids("\n"), 1, *ids("assistant\n")]

    asyncio.run(main())


def test_facts(tmp_path: Path) -> None:
    """The vocabulary is described so that two models can be compared."""

    async def main() -> None:
        async with prompts(tmp_path) as helper:
            facts = helper.vocabulary
            assert facts is not None
            assert facts.vocab_n == 7 + len(byte_characters())
            assert (facts.trained, facts.byte_level, facts.fim) == (512, True, True)
        async with prompts(tmp_path, template="other") as helper:
            other = helper.vocabulary
            assert other is not None
            assert other.tokenizer_sha == facts.tokenizer_sha
            assert other.template_sha != facts.template_sha
        async with prompts(tmp_path, fim=False) as helper:
            assert helper.vocabulary is not None
            assert helper.vocabulary.tokenizer_sha != facts.tokenizer_sha
            assert not helper.vocabulary.fim

    asyncio.run(main())


def test_a_model_without_a_template(tmp_path: Path) -> None:
    """Turns are then written as plain lines, which any model can continue."""

    async def main() -> None:
        async with prompts(tmp_path, template="") as helper:
            said = await helper.chat([{"role": "user", "content": "hi"}])
            assert list(said) == ids("user: hi\nassistant:")

    asyncio.run(main())


def test_text_and_infill(tmp_path: Path) -> None:
    """Markers count in a raw prompt, but not in the files around a hole."""

    async def main() -> None:
        async with prompts(tmp_path) as helper:
            assert list(await helper.text("a<|im_end|>")) == [*ids("a"), 2]
            tokens, cut = await helper.infill("a<|im_end|>", "b", [], room=100, batch=64)
            assert list(tokens) == [3, *ids("a<|im_end|>"), 4, *ids("b"), 5]
            assert cut == 0

    asyncio.run(main())


def test_lone_surrogates_do_no_harm(tmp_path: Path) -> None:
    """JSON may hold what UTF-8 cannot; it is replaced, not fatal."""

    async def main() -> None:
        async with prompts(tmp_path) as helper:
            assert list(await helper.text("a\ud800b")) == ids("a?b")

    asyncio.run(main())


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0].__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ 1 // 0 }}",
        "{% include 'x' %}",
        "{{ undefined_thing.more }}",
        "{% if %}",
        "{{ strftime_now(1) }}",
        HUGE,
    ],
)
def test_a_template_that_fails(tmp_path: Path, template: str) -> None:
    """A template that fails, refuses, or leaves the sandbox makes the request invalid, no more."""

    async def main() -> None:
        async with prompts(tmp_path, template=template) as helper:
            with pytest.raises(InvalidRequest) as caught:
                await helper.chat([{"role": "user", "content": "hi"}])
            assert caught.value.param == "messages"
            assert list(await helper.text("a")) == ids("a")

    asyncio.run(main())


def test_a_template_that_does_not_end(tmp_path: Path) -> None:
    """At its time limit the helper is killed; the next request has a new one."""

    async def main() -> None:
        async with prompts(tmp_path, template=ENDLESS, limit_s=0.3) as helper:
            with pytest.raises(InvalidRequest):
                await helper.chat([{"role": "user", "content": "hi"}])
            assert list(await helper.text("a")) == ids("a")

    asyncio.run(main())


def test_a_caller_who_leaves_gives_no_answer_to_the_next(tmp_path: Path) -> None:
    """A cancelled request is answered to nobody: replies never shift by one."""

    async def main() -> None:
        async with prompts(tmp_path) as helper:
            left = asyncio.create_task(helper.text("long " * 1000))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            left.cancel()
            assert list(await helper.text("a")) == ids("a")

    asyncio.run(main())


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    """An unreadable file is an EngineFailed at start."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"no model")

    async def main() -> None:
        helper = Prompts(path)
        with pytest.raises(EngineFailed):
            await helper.start()
        await helper.aclose()

    asyncio.run(main())
