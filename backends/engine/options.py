"""What an operator may say of a local model, and which abilities that leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from backends.base import Options
from gateway.core import quantity
from gateway.core.chat import Feature

BUNDLED = Path(__file__).parent / "bundled"

FEATURES = frozenset(
    {
        Feature.CHAT,
        Feature.COMPLETION,
        Feature.TOP_K,
        Feature.MIN_P,
        Feature.SEED,
        Feature.PENALTIES,
        Feature.TOKEN_PROMPT,
        Feature.LOGPROBS,
        Feature.LOGIT_BIAS,
        Feature.ECHO,
        Feature.TYPICAL_P,
        Feature.REPEAT_PENALTY,
        Feature.DRY,
        Feature.IGNORE_EOS,
        Feature.MIN_TOKENS,
        Feature.TOOLS,
        Feature.JSON_MODE,
        Feature.GRAMMAR,
        Feature.PREDICTION,
    }
)
SHARING = frozenset({Feature.N})
"""What needs sequences to share cells, which those of a strict engine cannot."""
Seconds = Annotated[float, BeforeValidator(quantity.duration)]


class DraftOptions(BaseModel):
    """`draft`: the GGUF file of a smaller model with the same vocabulary, found as `model` is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draft: str


class LlamaCppOptions(Options):
    """A local model.

    `model`: a GGUF file, relative to the model folder, or `bundled:draft` or `bundled:target`.
    `context` bounds one request, in tokens (default: as trained, at most 4096); `cells` all that
    run at once (default: `context` for each of `slots`, in a part of its own; any other number is
    one pool, which is slower the fuller it is). `strict` gives results that do not depend on who
    else is served, for up to twice the computation, and needs the memory of full `cells`.
    `max_tokens` caps an answer whose client sets no limit. `prepare_s` bounds the rendering and
    tokenizing of one prompt. `kv` is the type of the KV cells: q8_0 takes 0.53 of f16's memory,
    q4_0 0.28; both need flash attention and a head size that is a multiple of 32.
    `flash_attention`: by default on, but for models whose heads are very small.
    `sha256` pins the file: another one under its name, or a damaged one, is not loaded. Of a split
    model it is the digest over its parts' digests.
    `raw_grammars`: whether clients may send GBNF of their own; a hostile
    one can hold the worker for seconds, everyone's. `snapshot_mib` is RAM for
    conversations that had to leave the KV cells, so that their next turn need not be computed from
    its beginning (0: none; strict models keep none). `speculate`: drafts that the worker makes for
    itself. auto: by lookup in the prompt and the answer, where measurement says that it pays;
    `{draft: FILE}`: also by a smaller model, in the same way; ngram: by lookup, without asking
    whether it pays; off: not at all. `embeddings`: how the tokens' vectors become one; by default
    as the file says, and a file that says it only embeds. With mean, cls or last a model that
    generates embeds too, in cells of one more `context`; off makes it generate.

    Where several models share `memory.budget`: `preload` loads this one at the start (default:
    where there is no budget), `pin` also keeps it for good. `keep_alive` is the time without
    requests after which it is unloaded (default: when another needs its memory), `max_wait` the
    time that a request waits for it to be loaded before it gets 503.
    """

    model: str
    slots: int = Field(default=4, ge=1, le=64)
    cells: int | None = Field(default=None, ge=256)
    threads: int | None = Field(default=None, ge=1)
    gpu_layers: int = Field(default=0, ge=0)
    strict: bool = False
    kv: Literal["f16", "q8_0", "q4_0"] = "f16"
    flash_attention: bool | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    default_temperature: float = Field(default=1.0, ge=0)
    queue: int = Field(default=64, ge=1)
    prepare_s: float = Field(default=2.0, gt=0)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    raw_grammars: bool = True
    snapshot_mib: int = Field(default=0, ge=0)
    speculate: Literal["auto", "off", "ngram"] | DraftOptions = "auto"
    embeddings: Literal["mean", "cls", "last", "off"] | None = None
    preload: bool | None = None
    pin: bool = False
    keep_alive: Seconds | None = None
    max_wait: Seconds = 30.0


def features_of(options: LlamaCppOptions) -> frozenset[Feature]:
    """What its requests may ask of it, but for what its file decides."""
    lacks = set() if options.raw_grammars else {Feature.GRAMMAR}
    lacks |= {Feature.PREDICTION} if options.speculate == "off" else set()
    return (FEATURES if options.strict else FEATURES | SHARING) - lacks


def speculation_of(option: str | DraftOptions) -> str:
    """In the words of EngineSettings."""
    if isinstance(option, DraftOptions):
        return "auto"
    return "always" if option == "ngram" else option


def model_path(model: str, model_dir: Path) -> Path:
    """Where a configured model lies; `bundled:NAME` is one of the pair that we ship."""
    kind, _, name = model.partition(":")
    if kind == "bundled":
        return BUNDLED / f"tandem-demo-{name}-q8_0.gguf"
    return model_dir / model
