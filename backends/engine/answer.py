"""One choice's outputs as the gateway's events: text, calls, log-probabilities, the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from backends.engine.echo import Echo, Reading
from backends.engine.logprobs import Entry
from backends.engine.protocol import Output
from backends.engine.tools import FAMILIES
from backends.engine.tools.parser import CallParser, Delta
from gateway.core.chat import TokenLogprob
from gateway.core.events import Event, Finish, TextDelta


class Answer:
    """Fed with one sequence's outputs. `family` is the format of its calls, "" for text only.

    `logprobs`: whether the client wants those that the outputs have.
    """

    def __init__(
        self, choice: int, *, family: str, echo: Echo, reading: Reading, logprobs: bool
    ) -> None:
        self._choice = choice
        self._parser = CallParser(FAMILIES[family]) if family else None
        self._echo = echo
        self._reading = reading
        self._wants = logprobs
        self._begun = False
        self._plain = not (family or echo.text or echo.scored or logprobs)
        # What no text has carried yet: the parser may hold a step's text back for a while.
        self._tokens = 0
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def events(self, output: Output) -> Iterable[Event]:
        # Nearly every token of nearly every answer; the long way costs it several microseconds.
        if self._plain and output.finish is None:
            self._tokens += len(output.tokens)
            if not output.text:
                return ()
            held, self._tokens = self._tokens, 0
            return (TextDelta(text=output.text.decode(), choice=self._choice, tokens=held),)
        return self._any(output)

    def _any(self, output: Output) -> Iterator[Event]:
        if output.prompt:
            text, entries = self._reading.clean(output.text.decode(), output.logprobs)
            self._keep(entries)
            if text or self._logprobs:
                yield self._charged(TextDelta(text=text, choice=self._choice))
            return
        if self._echo.scored and self._echo.only:
            if output.finish is not None:
                yield Finish(reason="length", choice=self._choice)
            return
        yield from self._answer(output)

    def _answer(self, output: Output) -> Iterator[Event]:
        if not self._begun and self._echo.text and not self._echo.scored:
            yield TextDelta(text=self._echo.text, choice=self._choice)
        self._begun = True
        self._tokens += len(output.tokens)
        self._keep(output.logprobs)
        for delta in self._deltas(output):
            yield self._charged(delta) if isinstance(delta, TextDelta) else delta
        if output.finish is None:
            return
        if self._logprobs:
            yield self._charged(TextDelta(text="", choice=self._choice))
        # A stop string may lie inside a call's arguments: nobody should run such a call.
        called = self._parser is not None and 0 < self._parser.calls == self._parser.whole
        reason = "tool_calls" if called and output.finish == "stop" else output.finish
        yield Finish(reason=reason, choice=self._choice)

    def _keep(self, entries: tuple[Entry, ...]) -> None:
        if self._wants:
            self._logprobs += tuple(map(_logprob, entries))

    def _charged(self, delta: TextDelta) -> TextDelta:
        # Not `replace`: that costs more than the rest of this class, for every token.
        charged = TextDelta(
            text=delta.text, choice=delta.choice, tokens=self._tokens, logprobs=self._logprobs
        )
        self._tokens, self._logprobs = 0, ()
        return charged

    def _deltas(self, output: Output) -> list[Delta]:
        text = output.text.decode()
        if self._parser is None:
            whole = text or self._logprobs
            return [TextDelta(text=text, choice=self._choice)] if whole else []
        deltas = self._parser.feed(text)
        if output.finish is not None:
            deltas = [*deltas, *self._parser.finish()]
        return [replace(delta, choice=self._choice) for delta in deltas]


def _logprob(entry: Entry) -> TokenLogprob:
    data, logprob, top = entry
    others = tuple(TokenLogprob(data=other, logprob=value) for other, value in top)
    return TokenLogprob(data=data, logprob=logprob, top=others)
