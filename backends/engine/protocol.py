"""What the gateway and an engine worker say to each other: length-prefixed msgpack frames.

A frame is 4 bytes of little-endian length and one msgpack map. The socket is inherited by the
worker (a socketpair), so its end-of-file is also how a worker learns that the gateway is gone.

Towards the worker:

    submit   a Job
    cancel   {id}                      drop a sequence, queued or running; its cells are freed
    draft    {id, epoch, base, tokens} role target: what a drafter proposes from position `base`
    sync     {id, epoch, base, tokens} role draft: what the target committed from `base` on
    pause    {id, on}                  whether to leave the sequence out of the steps
    embed    {id, at, tokens}          text number `at` of a request for embeddings; `cancel` too
    stats    {}
    ping     {}                        answered by `pong` at once, whatever is being computed

From the worker, one frame per step: `{"out": [Output, …], "seen", "idle"}`, and `vectors`,
`[[id, at, little-endian float32, error], …]`, if the step made some; besides `ready`, `stats`,
`pong`, `fatal`, and `admitted` {ids} before sequences are computed for the first time.
`seen` counts the frames it has taken, pings apart, so that the gateway knows whether `idle`
(nothing to do until somebody speaks) was said before or after its last command.

Positions count generated tokens: 0 is the first token after the prompt. Roles of a sequence:

`generate`  ordinary: sample one token a step, until a stop.
`target`    the same, but when a draft lies in the inbox that continues exactly what is generated
            so far, all its tokens are verified in one pass (sample-and-match: position i is sampled
            with the sequence's real sampler state and the draft only compared). Never idle: with an
            empty inbox it decodes one token as `generate` would.
`draft`     tokens ahead of the target, at most `ahead` beyond what `sync` has confirmed: what
            the job's sampler would choose, with the target's own noise if it has the target's seed
            (gumbel.py), and without what looks back (penalties). A `sync` that disagrees rewinds
            to the committed tokens and raises the epoch. It never
            ends by itself: the session cancels it.

Epochs only spare work, they never decide what is right: a target compares every draft with what it
has generated and verifies the rest. Both sides raise theirs past the epoch of what disagreed
(drafts.py), so the two numbers meet without being told apart.

The helper process (prepare.py) speaks the same frames, one answer to each request.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import msgpack

from backends.engine import logprobs

Role: TypeAlias = Literal["generate", "target", "draft"]
Source: TypeAlias = Literal["self", "draft", "bonus"]
Wire: TypeAlias = dict[str, Any]

MAX_FRAME = 16 * 1024 * 1024
MAX_DRAFT = 32
"""Tokens of one draft frame; longer ones are cut (DESIGN 6: drafts are bounded)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """The sampler chain's parameters; temperature 0 is greedy. seed None: the worker picks one.

    Frequency and presence penalties look at the answer only, as OpenAI's do; the repeat penalty and
    DRY at the prompt too, as llama.cpp's do, so many tokens back (-1: all). `logit_bias` is pairs
    of token id and bias. `ignore_eos` bans every token that ends an answer, `min_tokens` until the
    answer has so many; stop strings still end it. `infill` is llama.cpp's sampler for holes: tokens
    that begin alike count as the shortest of them, and an unsure model ends.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    infill: bool = False

    @property
    def plain(self) -> bool:
        """Whether the likeliest token of the raw logits is always the choice."""
        return self.temperature <= 0 and not (
            self.frequency_penalty
            or self.presence_penalty
            or self.repeat_penalty != 1
            or self.dry_multiplier
            or self.logit_bias
            or self.ignore_eos
            or self.min_tokens
            or self.infill
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One sequence to generate. `tokens` is the whole prompt, already tokenised.

    `strict` asks that no row of it is ever decoded in a batch of width one, so that the result is
    the same bytes whether tokens came singly or were verified in one pass (speculation.md 9.2).
    `ahead` bounds a `draft` role's lead, in tokens, and what a pass of role `target` verifies (0:
    as the worker does). `priority`: smaller goes first. `logprobs` asks
    for log-probabilities and so many of the likeliest tokens beside each; None for none.
    `deadline`: seconds from now after which a job still waiting is dropped. `session`: of the
    priority-0 jobs of one tenant's session only the newest goes on; the older ones end, superseded.
    `grammar`: GBNF that the whole answer fits, "" for none; its root rule is `root`. `shown`:
    control tokens whose spelling is part of the answer's text. `scored`: the prompt's tokens come
    back too, as text with log-probabilities, before the answer (not with `strict`). `prediction`:
    tokens that the answer is expected to be like, a hint to speculation. `floor`, of role draft:
    it rests while the chance that all it is ahead by holds lies below that (confidence.py).
    """

    id: int
    tokens: tuple[int, ...]
    max_tokens: int
    sampler: SamplerSettings = SamplerSettings()
    stop: tuple[bytes, ...] = ()
    role: Role = "generate"
    strict: bool = False
    ahead: int = 0
    logprobs: int | None = None
    tenant: str = "default"
    priority: int = 1
    deadline: float | None = None
    session: str = ""
    grammar: str = ""
    shown: tuple[int, ...] = ()
    scored: bool = False
    prediction: tuple[int, ...] = ()
    floor: float = 0.0

    def pack(self) -> Wire:
        return {"op": "submit", **asdict(self)}

    @classmethod
    def unpack(cls, frame: Mapping[str, Any]) -> Job:
        """Raises TypeError for a field that this side does not know."""
        values = {name: value for name, value in frame.items() if name != "op"}
        sampler = values["sampler"]
        biases = tuple((token, bias) for token, bias in sampler["logit_bias"])
        values["sampler"] = SamplerSettings(**{**sampler, "logit_bias": biases})
        for name in ("tokens", "stop", "shown", "prediction"):
            values[name] = tuple(values[name])
        return cls(**values)


class Output(NamedTuple):
    """What one step did for one sequence.

    `base` is the position of the first of `tokens`. `text` is what may be shown now: whole UTF-8,
    never past a stop string, so it can lag behind the tokens. `drafted` is how many draft tokens
    the pass verified and `accepted` how many of them held. `source` is self without a draft, bonus
    when all of a draft held (and one token more came of the same pass), else draft. `finish` is set
    once: stop, length, cancelled or error (then `error` says why: one of the words below, a colon,
    and a sentence). `completion_tokens` counts all tokens so far, the ending one included.
    `logprobs` are of the tokens that end in `text`: those that a stop string cuts have none.
    `prompt` marks the text of a scored job's prompt, which is not the answer's. `prediction`, with
    the finish: how many tokens drafted from the job's prediction held, and how many did not.
    `margin`, of role target: the least that one of `tokens` was above the second best, in logits
    and with the noise of sampling; only a tie can be broken otherwise by a batch's width.
    `raw`, of role target: the tokens' bytes as they are, nothing held back. A stop string's too.
    `trusted` is false once an audit (audit.py) has found verification wrong: this worker verifies
    no more.
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
    logprobs: tuple[logprobs.Entry, ...] = ()
    retry_after: float | None = None
    prompt: bool = False
    prediction: tuple[int, int] = (0, 0)
    margin: float | None = None
    trusted: bool = True
    raw: bytes = b""

    @classmethod
    def unpack(cls, values: list[Any]) -> Output:
        """From its frame, where it stands as a list. One for every token: keep it cheap."""
        if len(values) != len(cls._fields):
            raise FrameError(f"an output of {len(values)} values")
        values[_TOKENS] = tuple(values[_TOKENS])
        values[_PREDICTION] = tuple(values[_PREDICTION])
        values[_LOGPROBS] = logprobs.unpack(values[_LOGPROBS]) if values[_LOGPROBS] else ()
        return cls._make(values)


_TOKENS, _PREDICTION, _LOGPROBS = map(Output._fields.index, ("tokens", "prediction", "logprobs"))

# The words that an Output's `error` begins with.
OVERLOADED = "overloaded"
EXPIRED = "expired"
SUPERSEDED = "superseded"
TOO_LONG = "too_long"
INVALID = "invalid"
FAILED = "failed"
NOT_A_NUMBER = "not_a_number"
GRAMMAR = "grammar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker's first frame: the model is loaded and has decoded a probe.

    `exactness`: whether widths of two and more gave the same logits, bit for bit. `epsilon`: a tie
    of less than that, in logits, can fall the other way at another width, one included; None if
    nothing was measured.
    """

    vocab: int
    context: int
    slots: int
    threads: int
    load_s: float
    exactness: str = "unknown"
    epsilon: float | None = None
    fim: bool = False
    meta: dict[str, str] = field(default_factory=dict)

    @property
    def promised(self) -> str:
        """What a target's sessions can promise: drafts change no byte, or none but at ties."""
        if self.meta.get("strict") == "true" and self.exactness == "bitwise":
            return "bitwise"
        return "tie-tolerant" if int(self.meta.get("verify", "0")) else ""

    def pack(self) -> Wire:
        return {"op": "ready", **asdict(self)}

    @classmethod
    def unpack(cls, frame: Mapping[str, Any]) -> Ready:
        return cls(**{name: value for name, value in frame.items() if name != "op"})


class FrameError(Exception):
    """The other side sent what is not a frame; the connection is of no more use."""


_LENGTH = struct.Struct("<I")


def encode(frame: Wire) -> bytes:
    # A lone surrogate is legal in JSON strings; the tokenizer's side replaces it.
    body: bytes = msgpack.packb(frame, unicode_errors="surrogatepass")
    if len(body) > MAX_FRAME:
        raise FrameError(f"a frame of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


def _decode(body: bytes) -> Wire:
    try:
        frame = msgpack.unpackb(body, unicode_errors="surrogatepass")
    except (ValueError, msgpack.UnpackException) as error:
        raise FrameError("not msgpack") from error
    if not isinstance(frame, dict):
        raise FrameError("not a map")
    return frame


def _length(header: bytes) -> int:
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME:
        raise FrameError(f"a frame of {length} bytes")
    return int(length)


def receive(connection: socket.socket) -> Wire | None:
    """Block for the next frame; None at end-of-file, also when it comes inside a frame."""
    header = _exactly(connection, _LENGTH.size)
    body = None if header is None else _exactly(connection, _length(header))
    return None if body is None else _decode(body)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            chunk = connection.recv(min(size - len(parts), 1 << 16))
        except ConnectionError:
            return None
        if not chunk:
            return None
        parts += chunk
    return bytes(parts)


async def read(reader: asyncio.StreamReader) -> Wire | None:
    """The same for the gateway's event loop."""
    try:
        header = await reader.readexactly(_LENGTH.size)
        return _decode(await reader.readexactly(_length(header)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
