"""What a pass's logits say: sample position after position while the draft agrees.

As if each position had been alone: the sampler is asked once for every token that is emitted and
never for one that is not, so its state (penalties, random numbers) is that of a run without drafts.
"""

from __future__ import annotations

from backends.engine.decoding import Decoder, Floats
from backends.engine.gumbel import margin
from backends.engine.protocol import Output, Source
from backends.engine.slots import Rows, Slot


def emit(
    rows: Rows, logits: Floats, greedy: list[int], engine: Decoder, *, trusted: bool
) -> Output:
    """What is told of these rows; their slot has the new tokens, all but the last of them fed.

    `logits` begin with the row of the last known token; `greedy` is the likeliest of each. Raises
    NothingFits if the sampler's grammar leaves no token.
    """
    slot, draft = rows.slot, rows.draft
    base, text, emitted, accepted = slot.generated, b"", 0, 0
    raw = b""
    finish: str | None = None
    least: float | None = None
    for i in range(len(draft) + 1):
        token = slot.sampler(logits[i]) if slot.sampler else greedy[i]
        if slot.inbox is not None:
            above = slot.sampler.margin if slot.sampler else margin(logits[i], token)
            least = above if least is None else min(above, least)
        slot.tokens.append(token)
        emitted += 1
        held = i < len(draft) and token == draft[i]
        accepted += held
        if engine.ends(token):
            finish = "stop"
            text += slot.text.flush()
            break
        shown = token in slot.job.shown
        piece = engine.spelling(token) if shown else engine.piece(token)
        if slot.trail:
            slot.trail.add(logits[i], token, slot.text.pushed + len(piece))
        text += slot.text.push(piece)
        if slot.inbox is not None:
            raw += piece
        if slot.text.stopped:
            finish = "stop"
            break
        if slot.generated >= slot.job.max_tokens:
            finish = "length"
            text += slot.text.flush()
            break
        if not held:
            break
    slot.fed += emitted - 1  # the rows of accepted draft tokens; the newest token has none yet
    tokens = tuple(slot.tokens[slot.prompt + base :])
    if slot.inbox is not None:
        slot.inbox.commit(base, tokens)
    if slot.drafting and draft:
        slot.drafting.settle(len(draft), accepted)
    return Output(
        id=slot.job.id,
        base=base,
        tokens=tokens,
        text=text,
        epoch=slot.inbox.epoch if slot.inbox is not None else 0,
        source=_source(draft, emitted),
        drafted=len(draft),
        accepted=accepted,
        finish=finish,
        prompt_tokens=slot.prompt,
        cached_tokens=slot.reused,
        completion_tokens=slot.generated,
        logprobs=slot.trail.take(slot.text.shown) if slot.trail else (),
        prediction=slot.drafting.prediction if slot.drafting and finish else (0, 0),
        margin=least,
        trusted=trusted,
        raw=raw,
    )


def lead(slot: Slot, token: int) -> Output:
    """What is told of a drafter's guess, which it has taken down."""
    assert slot.lead is not None
    return Output(
        id=slot.job.id,
        base=slot.generated - 1,
        tokens=(token,),
        epoch=slot.lead.epoch,
        prompt_tokens=slot.prompt,
        completion_tokens=slot.generated,
    )


def _source(draft: list[int], emitted: int) -> Source:
    if not draft:
        return "self"
    return "bonus" if emitted > len(draft) else "draft"
