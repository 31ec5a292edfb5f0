"""What the gateway and an engine worker say to each other: length-prefixed msgpack frames.

A frame is 4 bytes of little-endian length and one msgpack map. The socket is inherited by the
worker (a socketpair), so its end-of-file is also how a worker learns that the gateway is gone.

Towards the worker:

    submit   a Job
    cancel   {id}                      drop a sequence, queued or running; its cells are freed
    draft    {id, epoch, base, tokens} role target: what a drafter proposes from position `base`
    sync     {id, epoch, base, tokens} role draft: what the target committed from `base` on
    stats    {}

From the worker, one frame per step: `{"out": [Output, …]}`, besides `ready`, `stats`, `fatal`.

Positions count generated tokens: 0 is the first token after the prompt. Roles of a sequence:

`generate`  ordinary: sample one token a step, until a stop.
`target`    the same, but when a draft lies in the inbox that continues exactly what is generated
            so far, all its tokens are verified in one pass (sample-and-match: position i is sampled
            with the sequence's real sampler state and the draft only compared). Never idle: with an
            empty inbox it decodes one token as `generate` would.
`draft`     greedy tokens ahead of the target, at most `ahead` beyond what `sync` has confirmed;
            a `sync` that disagrees rewinds to the committed tokens and raises the epoch. It never
            ends by itself: the session cancels it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Role: TypeAlias = Literal["generate", "target", "draft"]
Source: TypeAlias = Literal["self", "draft", "bonus"]

MAX_FRAME = 16 * 1024 * 1024
MAX_DRAFT = 32
"""Tokens of one draft frame; longer ones are cut (DESIGN 6: drafts are bounded)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """The sampler chain's parameters; temperature 0 is greedy. seed None: the worker picks one."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One sequence to generate. `tokens` is the whole prompt, already tokenised.

    `strict` asks that no row of it is ever decoded in a batch of width one, so that the result is
    the same bytes whether tokens came singly or were verified in one pass (speculation.md 9.2).
    `ahead` bounds a `draft` role's lead, in tokens. `priority`: smaller goes first.
    """

    id: int
    tokens: tuple[int, ...]
    max_tokens: int
    sampler: SamplerSettings = SamplerSettings()
    stop: tuple[bytes, ...] = ()
    role: Role = "generate"
    strict: bool = False
    ahead: int = 0
    tenant: str = "default"
    priority: int = 1

    def pack(self) -> dict[str, Any]:
        return {"op": "submit", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one step did for one sequence.

    `base` is the position of the first of `tokens`. `text` is what may be shown now: whole UTF-8,
    never past a stop string, so it can lag behind the tokens. `drafted` is how many draft tokens
    the pass verified and `accepted` how many of them held. `finish` is set once: stop, length,
    cancelled or error (then `error` says why).
    """

    id: int
    base: int = 0
    tokens: tuple[int, ...] = ()
    text: bytes = b""
    epoch: int = 0
    source: Source = "self"
    drafted: int = 0
    accepted: int = 0
    finish: str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker's first frame: the model is loaded and has decoded a probe."""

    vocab: int
    context: int
    slots: int
    threads: int
    load_s: float
    exactness: str = "unknown"
    fim: bool = False
    meta: dict[str, str] = field(default_factory=dict)
