"""The session's messages: what an edge that drafts and a companion that verifies say to each other.

One WebSocket, one session. A binary frame is one msgpack map, a text frame the same map as JSON;
`type` names the message. Fields that we do not know are skipped, so that either side may be newer;
a `type` that we do not know is an error, since skipping it could lose meaning.

    edge       →  open    what to answer, and with which vocabulary the drafts will come
    companion  →  opened  the session stands; how it will verify
    edge       →  draft   tokens, or text, from `base_pos` on; at any time, as many as it likes
    companion  →  commit  tokens that are settled, after every pass of the target, asked or not
    edge       →  ack     so far has been read; the target rests a window of tokens beyond it
    companion  →  stale   a draft came too late to be of use; not an error
    edge       →  resume  on a new socket: the old one broke, go on behind what I have
    edge       →  cancel  nobody reads on (a close in good order says the same)
    edge       →  close   all has been read
    companion  →  error   the session is over, or never began; `fallback` says what to do instead

Where no WebSocket can be made, the same messages go over plain HTTP: `open` or `resume` is posted
to `PATH`, and what the companion says comes back as server-sent events, one message as JSON each;
what the edge says is posted to `PATH/{session}`, as `{"token": …, "messages": […]}`. Both must
reach the same process.

A socket that breaks ends nothing: the companion keeps the session for `KEPT_S`, halted, and what
it said since the last `ack`. `resume` names session, token and how far the edge has read, and is
answered by `opened` and then by what is missing, commit by commit as it was first said.

Drafts are tokens where both models have one vocabulary. Where they have not, and the edge has said
in `open.drafts` that it can, they are text: the companion cuts it into the target's tokens. Then
`base_pos` of `draft` and `stale` counts bytes, those of all `text_bytes` so far, and `epoch`, the
commits' too, counts texts that disagreed; a commit's positions are tokens always.

Positions count generated tokens: 0 is the first after the prompt. An epoch counts the drafter's
wrong turns: after one, what was drafted behind it is worthless and is told apart by its number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import msgpack
import orjson

from backends.engine.prompts import Vocabulary
from backends.engine.protocol import MAX_DRAFT
from gateway.core.chat import Sampling

VERSION = 1
PATH = "/v1/tandem/session"

MAX_MESSAGE = 8 * 1024 * 1024
"""Bytes of one message: a request body, or the ids of the longest prompt."""
MAX_PROMPT = 1_000_000
MAX_POSITION = 2**31 - 1
MAX_STOPS = 64
MAX_NAME = 256
MAX_TEXT = 64 * 1024
MAX_POSTED = 64
"""Messages of one POST."""
WINDOW = 256
"""Tokens that a target generates beyond the last `ack`: a sleeping laptop costs no more."""
ACK_EVERY = 64
IDLE_S = 60.0
"""A socket that has said nothing by then is closed: a spare one, or nobody."""
KEPT_S = 20.0
"""For so long a session outlives its socket."""

SOURCES = ("self", "draft", "bonus")
WAYS = ("tokens", "text")
"""What drafts may be made of."""
MAX_WAYS = 16
MAX_DRAFT_TEXT = 1024
"""Bytes of one draft of text."""
COUPLINGS = ("native", "greedy", "gumbel")
ENDPOINTS = ("chat", "completion")


class MalformedMessage(ValueError):
    """A frame that is no message of ours. The text names the field, never its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What two models must share for the token ids of one to mean the same to the other."""

    tokenizer_sha: str
    vocab_n: int
    template_sha: str = ""
    bos: int = -1
    eos: int = -1

    @classmethod
    def of(cls, vocabulary: Vocabulary | None) -> Fingerprint | None:
        """A local model's; None while it is not loaded."""
        if vocabulary is None:
            return None
        return cls(
            tokenizer_sha=vocabulary.tokenizer_sha,
            vocab_n=vocabulary.vocab_n,
            template_sha=vocabulary.template_sha,
            bos=vocabulary.bos,
            eos=vocabulary.eos,
        )

    def drafts_for(self, target: Fingerprint) -> bool:
        """Whether ids of this vocabulary may be proposed to that target.

        The template is left out: the companion renders the prompt and hands its ids over.
        """
        return self.tokenizer_sha == target.tokenizer_sha and self.vocab_n == target.vocab_n


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Begin. Either `prompt_ids` with `sampling`, or `request`: the very body that would have been
    posted to the companion's HTTP `endpoint`, so that both ways read the same prompt and settings.

    `model_fp` is the drafter's; without it the session runs, but takes no drafts. `drafts` is what
    they may be made of, for the companion to choose from; names that it does not know are nothing.
    """

    type: ClassVar[str] = "open"
    v: int = VERSION
    session: str = ""
    model: str = ""
    model_fp: Fingerprint | None = None
    endpoint: str = "chat"
    request: Mapping[str, Any] | None = None
    prompt_ids: tuple[int, ...] = ()
    sampling: Sampling = Sampling()
    coupling: str = "native"
    max_width: int = MAX_DRAFT + 1
    self_generate: bool = True
    drafts: tuple[str, ...] = ("tokens",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The companion's promise. `prompt_ids` are there if the drafter can read them.

    `exactness` is `bitwise` where drafts cannot change a byte, `tie-tolerant` where widths of
    different kernel classes may break a near-tie differently (speculation.md 9.2): one of less than
    `epsilon`, in the terms of `commit.margin_min`. `sampling` says how the target samples: with its
    seed a drafter takes the same noise, position by position (`coupling` "gumbel"). `token` is
    what `resume` must show; `pos` is how far the edge has read. `family` names the format of the
    tool calls in the text, "" if there can be none. `drafts` is what the session takes them as;
    with "text" there are no `prompt_ids`, for nobody there could read them, and no coupling, for
    the noise belongs to the target's ids.
    """

    type: ClassVar[str] = "opened"
    session: str
    pos: int = 0
    prompt_ids: tuple[int, ...] = ()
    model_fp: Fingerprint | None = None
    max_ahead: int = MAX_DRAFT
    exactness: str = "tie-tolerant"
    width_class: str = ""
    t1_ms: float | None = None
    tv_ms: Mapping[str, float] = field(default_factory=dict)
    token: str = ""
    coupling: str = "native"
    sampling: Sampling = Sampling()
    epsilon: float | None = None
    window: int = WINDOW
    family: str = ""
    drafts: str = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Either `tokens` or `text`, which is UTF-8 and whole characters."""

    type: ClassVar[str] = "draft"
    epoch: int
    base_pos: int
    tokens: tuple[int, ...] = ()
    final: bool = False
    text: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Settled tokens. `text_bytes` is what may be shown now: whole UTF-8, never past a stop.

    `finish` comes once, with the token counts of the whole answer. `margin_min` is the least that
    one of the tokens was above the second best, in logits, the noise of sampling included.
    """

    type: ClassVar[str] = "commit"
    epoch: int
    base_pos: int
    tokens: tuple[int, ...] = ()
    text_bytes: bytes = b""
    n_draft_used: int = 0
    n_accepted: int = 0
    source: str = "self"
    finish: str | None = None
    width: int = 1
    margin_min: float | None = None
    t_queue_us: int | None = None
    t_verify_us: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    type: ClassVar[str] = "stale"
    epoch: int
    base_pos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """All commits up to this position have been read."""

    type: ClassVar[str] = "ack"
    pos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Go on with a session whose socket broke, behind the `have_pos` tokens that were read."""

    type: ClassVar[str] = "resume"
    v: int = VERSION
    session: str
    token: str
    have_pos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    type: ClassVar[str] = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    type: ClassVar[str] = "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """`error` on the wire. `fallback` "stream": the same request over HTTP may work."""

    type: ClassVar[str] = "error"
    code: str
    message: str = ""
    retry: bool = False
    fallback: str | None = None


Message: TypeAlias = (
    Open | Opened | Draft | Commit | Ack | Stale | Resume | Cancel | Close | Failure
)


def pack(message: Message) -> bytes:
    """The binary frame of a message."""
    return bytes(msgpack.packb(_fields(message), default=dataclasses.asdict))


def pack_text(message: Message) -> str:
    """The same as JSON, for a person with a command-line client."""
    return orjson.dumps(
        _fields(message), default=lambda raw: raw.decode("utf-8", "replace")
    ).decode()


def _fields(message: Message) -> dict[str, Any]:
    # Not `asdict`, which copies deeply: this runs for every pass of the target.
    return {"type": message.type, **{name: getattr(message, name) for name in message.__slots__}}
