"""What a client asks for and what it gets: ChatRequest in, Completion out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, TypeAlias

from gateway.core.lean import lean

Json: TypeAlias = Mapping[str, Any]

EMPTY: Json = {}


class Endpoint(StrEnum):
    """What kind of answer is asked for; also the request's class in metrics."""

    CHAT = "chat"
    COMPLETION = "completion"
    INFILL = "infill"
    EMBEDDINGS = "embeddings"


class Feature(StrEnum):
    """An ability that a request can need and an upstream can have.

    A request never reaches an upstream that lacks one of its features: it goes elsewhere,
    or the client gets a 400 that names the parameter (DESIGN 2.1, 2.2).
    """

    CHAT = "chat"
    COMPLETION = "completion"
    FIM = "fim"  # a `suffix`, or /infill
    TOOLS = "tools"
    JSON_MODE = "response_format"
    GRAMMAR = "grammar"  # GBNF, by llama.cpp's field
    N = "n"
    LOGPROBS = "logprobs"
    LOGIT_BIAS = "logit_bias"
    IMAGES = "images"
    AUDIO = "audio"
    SPEECH = "modalities"  # an answer that is heard
    ECHO = "echo"
    TOP_K = "top_k"
    MIN_P = "min_p"
    SEED = "seed"
    PENALTIES = "frequency_penalty"
    TYPICAL_P = "typical_p"
    REPEAT_PENALTY = "repeat_penalty"
    DRY = "dry_multiplier"
    IGNORE_EOS = "ignore_eos"
    MIN_TOKENS = "min_tokens"
    TOKEN_PROMPT = "prompt"  # a prompt given as token ids
    PREDICTION = "prediction"  # the answer as the client expects it: a hint that changes no token
    PROMPT_LIST = "prompt_list"  # several prompts in one request
    EMBEDDINGS = "embeddings"
    TOKEN_INPUT = "input"  # texts to embed given as token ids

    @property
    def param(self) -> str:
        """The request field that asks for this ability, as an error names it."""
        return _PARAMS.get(self, self.value)


_PARAMS = {
    Feature.CHAT: "messages",
    Feature.COMPLETION: "prompt",
    Feature.FIM: "suffix",
    Feature.IMAGES: "messages",
    Feature.AUDIO: "messages",
    Feature.PROMPT_LIST: "prompt",
    Feature.EMBEDDINGS: "model",
}


class Priority(IntEnum):
    """Who goes first where there is a queue; smaller is more urgent."""

    COMPLETION = 0
    CHAT = 1
    BATCH = 2


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn. `raw` is the turn as it came, so that nothing a client sent is lost."""

    role: str
    text: str
    raw: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A piece of another file that an editor sends along with a fill-in-the-middle request."""

    text: str
    filename: str = ""


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. None means that the client did not say.

    `repeat_last_n` and `dry_penalty_last_n` are in tokens, prompt included; -1 is all of them.
    `logit_bias` pairs a token id with what is added to its logit. `logprobs` asks for the tokens'
    log-probabilities, with so many of the likeliest beside each; None asks for none. `infill` asks
    for llama.cpp's sampler for holes in a text.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    dry_multiplier: float = 0.0
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None
    infill: bool = False

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def utf8_length(text: str) -> int:
    """Bytes of a text in UTF-8. CPython knows at once whether a text is ASCII; most are."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def input_bytes(given: str | tuple[int, ...]) -> int:
    """The same for a text to embed; token ids count as one each."""
    return len(given) if isinstance(given, tuple) else utf8_length(given)


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One decoded request, whatever its dialect. Frozen: a change is a copy (`replace`).

    `body` is the client's parsed JSON, in the client's dialect and order. A backend whose wire is
    that dialect sends it on with as little changed as it can, which is how fields that we do not
    understand are carried through. `inputs` are the texts to embed, or their token ids;
    `dimensions` is how long their vectors shall be, None for as long as the model makes them.

    `continues` is the beginning of the answer, which somebody else wrote and the client already
    has: only what follows it is to be said. No client asks for it; who does has looked at
    `Upstream.continues` first.
    """

    endpoint: Endpoint
    dialect: str
    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] = ""
    suffix: str | None = None
    continues: str = ""
    snippets: tuple[Snippet, ...] = ()
    inputs: tuple[str | tuple[int, ...], ...] = ()
    dimensions: int | None = None
    sampling: Sampling = Sampling()
    stream: bool = False
    include_usage: bool = False
    features: frozenset[Feature] = frozenset()
    extra: Json = field(default_factory=dict)
    body: Json = field(default_factory=dict)

    @property
    def text_bytes(self) -> int:
        """UTF-8 length of everything a model will read.

        For byte-level vocabularies an upper bound of the prompt's tokens, short of the chat
        template's own (DESIGN 2.2), and cheap enough to ask on every request.
        """
        if isinstance(self.prompt, tuple):
            return len(self.prompt)
        if self.inputs:
            return sum(map(input_bytes, self.inputs))
        texts = [self.prompt, self.suffix or "", self.continues]
        texts += [message.text for message in self.messages]
        texts += [snippet.text + snippet.filename for snippet in self.snippets]
        return sum(map(utf8_length, texts))


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer. `estimated` is set when an upstream did not report them.

    `cut_tokens` were left out around a hole to fill, by its protocol's rule (DESIGN 2.2).
    `cost_usd` is what the upstream itself says that the answer cost, where it does. Of the client's
    `prediction` so many tokens were tried and are in the answer, or are not.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cut_tokens: int = 0
    cost_usd: float | None = None
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: Usage) -> Usage:
        """Both together, as sure as the less sure of them."""
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cut_tokens=self.cut_tokens + other.cut_tokens,
            cost_usd=sum(costs) if costs else None,
            accepted_prediction_tokens=self.accepted_prediction_tokens
            + other.accepted_prediction_tokens,
            rejected_prediction_tokens=self.rejected_prediction_tokens
            + other.rejected_prediction_tokens,
            estimated=self.estimated or other.estimated,
        )


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A whole tool call; `arguments` is JSON text, as on the wire."""

    id: str
    name: str
    arguments: str


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token of an answer and its natural log-probability, with the likeliest in its place.

    Of the model's distribution as it is, before temperature, penalties and biases; None for the
    first token of an echoed prompt, which follows nothing. `data` is the token's bytes, which need
    not be whole characters; `top` is in falling order, without tops.
    """

    data: bytes
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One finished alternative."""

    index: int = 0
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@lean
@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer: what `collect` makes of a stream, and what the cache keeps.

    Of embeddings it is the `vectors`, one for each input in its order, as little-endian float32.
    """

    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    vectors: tuple[bytes, ...] = ()
