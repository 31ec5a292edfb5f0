"""What an upstream says, piece by piece; `collect` folds the pieces into a Completion.

Every backend yields these and nothing else. When the client speaks the upstream's own dialect, an
event also carries the wire frame that it came from, and the dialect passes those bytes on untouched
(DESIGN 3, "two lanes out of one relay"). A stream carries frames throughout or not at all; of the
events that came from one frame, the first carries it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from gateway.core.chat import Choice, Completion, TokenLogprob, ToolCall, Usage
from gateway.core.lean import lean
from gateway.core.routing import Upstream


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A wire frame without content of its own: a role chunk, an annotation, a keep-alive."""

    frame: bytes | None = None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """More text of one choice. `tokens` is how many model tokens it holds, 0 if unknown.

    `logprobs`, if they were asked for, are of the tokens that end in this text.
    """

    text: str
    choice: int = 0
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    frame: bytes | None = None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    """More of the model's reasoning, where the upstream shows it."""

    text: str
    choice: int = 0
    frame: bytes | None = None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalDelta:
    """More of the model's refusal: content in the client's eyes."""

    text: str
    choice: int = 0
    frame: bytes | None = None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """More of tool call number `index`; id and name come with the first piece only."""

    index: int = 0
    id: str = ""
    name: str = ""
    arguments: str = ""
    choice: int = 0
    frame: bytes | None = None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """A choice has ended: stop, length, tool_calls, content_filter."""

    reason: str
    choice: int = 0
    frame: bytes | None = None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """The upstream's token count.

    `alone` says that its frame holds nothing else, so that it can be withheld from a client
    that did not ask for usage. `own` is the share of who answers now, where others
    began the answer.
    """

    usage: Usage
    own: Usage | None = None
    alone: bool = True
    frame: bytes | None = None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole answer in one piece: the reply of an upstream that was not asked to stream."""

    completion: Completion
    frame: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationReport:
    """How drafting went, once, before the end of a speculative answer.

    accepted <= drafted; `rounds` counts target passes; `gain` is the estimated ratio of plain
    streaming time to this answer's time (above 1 is faster). `tokens` came of the rounds; `alpha`
    is the share of drafts that held among those that were tried, `proposed` are all that were sent,
    `sources` those and the ones that held by where they came from, `stale` the messages that came
    too late. `predicted` is the gain that was expected, and `usd_delta` what drafting cost (above
    0) or saved. `verified` is what the target read and wrote to verify drafts, where that is more
    than the answer's usage says. `held_at` counts the passes in which the first, the second, …
    draft held; `ties` the passes in which a token was so little above the second best that another
    width might have said that one. Times are seconds; what nobody measured is None.
    """

    strategy: str
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0
    gain: float | None = None
    tokens: int = 0
    alpha: float | None = None
    proposed: int = 0
    stale: int = 0
    sources: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    predicted: float | None = None
    usd_delta: float | None = None
    rtt_s: float | None = None
    draft_s: float | None = None
    verify_s: Mapping[int, float] = field(default_factory=dict)
    verified: Usage | None = None
    held_at: tuple[int, ...] = ()
    ties: int = 0
    frame: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeReport:
    """Of a cascade: what its local draft was worth, told before the answer begins.

    `score` is the estimated probability that the draft is right, `tokens` how many it was judged
    by, `why` one of sure, unsure, loop, refusal, empty, form, failed.
    """

    score: float
    escalated: bool
    why: str
    tokens: int
    frame: bytes | None = None


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Of a combined backend: which of its parts answers from here on, before it says anything."""

    upstream: Upstream
    frame: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """Of a combined backend: how an attempt at a part that does not answer to the end ended.

    `result` is failed, empty, cancelled or cut, or ok for one that only helped; `cost_usd` what it
    costs all the same, None if nobody knows. Who was cut has said the beginning of the answer, and
    `usage` is its share.
    """

    upstream: str
    result: str
    seconds: float
    cost_usd: float | None = 0.0
    usage: Usage = Usage()
    frame: bytes | None = None


Event: TypeAlias = (
    Frame
    | TextDelta
    | ReasoningDelta
    | RefusalDelta
    | ToolCallDelta
    | Finish
    | UsageReport
    | Document
    | SpeculationReport
    | CascadeReport
    | Answered
    | PartReport
)


def is_content(event: Event) -> bool:
    """Whether an event commits the answer to its upstream (DESIGN 2.4).

    Text, tool-call and reasoning deltas and refusals do, and so does the finish of an empty
    answer; frames before them can still be dropped for a fallback.
    """
    match event:
        case TextDelta() | ReasoningDelta() | RefusalDelta():
            return bool(event.text)
        case ToolCallDelta() | Finish() | Document():
            return True
        case _:
            return False


@dataclass(slots=True)
class _Growing:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Collector:
    """Folds events into a Completion; `limit` bounds the text it keeps, in characters."""

    def __init__(self, limit: int | None = None) -> None:
        self._choices: dict[int, _Growing] = {}
        self._usage: Usage | None = None
        self._document: Completion | None = None
        self._room = limit
        self.overflowed = False

    def add(self, event: Event) -> None:
        match event:
            case TextDelta():
                part = self._choices.get(event.choice) or self._choice(event.choice)
                text, room = event.text, self._room
                if room is None:
                    part.text.append(text)
                elif len(text) <= room:
                    self._room = room - len(text)
                    part.text.append(text)
                else:
                    part.text.append(self._keep(text))
                if event.logprobs:
                    part.logprobs += event.logprobs
            case ReasoningDelta():
                self._choice(event.choice).reasoning.append(self._keep(event.text))
            case RefusalDelta():
                self._choice(event.choice).refusal.append(self._keep(event.text))
            case ToolCallDelta():
                call = self._choice(event.choice).calls.setdefault(
                    event.index, {"id": "", "name": "", "arguments": []}
                )
                call["id"] = call["id"] or event.id
                call["name"] = call["name"] or event.name
                call["arguments"].append(self._keep(event.arguments))
            case Finish():
                self._choice(event.choice).finish_reason = event.reason
            case UsageReport():
                self._usage = event.usage
            case Document():
                self._document = event.completion
            case _:
                pass

    def completion(self) -> Completion:
        """The answer so far. Choices without a finish keep `finish_reason=None`."""
        if self._document is not None:
            return replace(self._document, usage=self._document.usage or self._usage)
        choices = tuple(
            Choice(
                index=index,
                text="".join(part.text),
                reasoning="".join(part.reasoning),
                refusal="".join(part.refusal),
                tool_calls=tuple(
                    ToolCall(id=c["id"], name=c["name"], arguments="".join(c["arguments"]))
                    for _, c in sorted(part.calls.items())
                ),
                finish_reason=part.finish_reason,
                logprobs=tuple(part.logprobs),
            )
            for index, part in sorted(self._choices.items())
        )
        return Completion(choices=choices, usage=self._usage)

    def _choice(self, index: int) -> _Growing:
        part = self._choices.get(index)
        if part is None:
            part = self._choices[index] = _Growing()
        return part

    def _keep(self, text: str) -> str:
        if self._room is None:
            return text
        if len(text) > self._room:
            self.overflowed = True
            text = text[: self._room]
        self._room -= len(text)
        return text


async def collect(events: AsyncIterator[Event]) -> Completion:
    """Read a stream to its end. The caller closes the stream."""
    collector = Collector()
    async for event in events:
        collector.add(event)
    return collector.completion()


def replay(completion: Completion) -> list[Event]:
    """The events of a kept answer, in the order an upstream would have sent them."""
    if completion.vectors:
        return [Document(completion=completion)]
    events: list[Event] = []
    for choice in completion.choices:
        at = choice.index
        if choice.reasoning:
            events.append(ReasoningDelta(text=choice.reasoning, choice=at))
        if choice.text:
            events.append(TextDelta(text=choice.text, choice=at))
        if choice.refusal:
            events.append(RefusalDelta(text=choice.refusal, choice=at))
        events += [
            ToolCallDelta(index=i, id=c.id, name=c.name, arguments=c.arguments, choice=at)
            for i, c in enumerate(choice.tool_calls)
        ]
        if choice.finish_reason is not None:
            events.append(Finish(reason=choice.finish_reason, choice=at))
    if completion.usage is not None:
        events.append(UsageReport(usage=completion.usage))
    return events
