"""What drafts in this worker and what that costs, made and measured when the model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backends.engine import calibrate
from backends.engine.decoding import Floats
from backends.engine.draft_model import DraftModel
from backends.engine.llama.context import Context, DecodeFailed
from backends.engine.llama.model import LoadFailed, Model
from backends.engine.payoff import Costs
from backends.engine.settings import EngineSettings
from backends.engine.slots import Limits
from backends.engine.speculate import Speculation

Decode = Callable[[list[int], list[int], list[int], list[bool]], Floats]
Watch = Callable[[Decode, list[int], list[int], list[int], list[bool]], Floats]


def speculation(
    settings: EngineSettings,
    model: Model,
    context: Context,
    limits: Limits,
    *,
    exact: bool,
) -> Speculation | None:
    """None: nothing drafts here. `context` must be empty and is left so.

    Raises LoadFailed if a draft model was asked for and cannot draft for this one.
    """
    if settings.speculate == "off" or limits.verify < 1:
        return None
    costs = None
    if settings.speculate != "always":
        costs = _measured(settings, context, model.tokens, limits.verify + 1)
    drafter = _draft_model(settings, model, limits) if settings.draft else None
    return Speculation(limits.verify, costs, model=drafter, exact=exact)


def told(speculation: Speculation | None) -> str:
    """What was found, for an operator."""
    if speculation is None:
        return "off"
    if speculation.costs is None:
        return "always"
    measured = speculation.costs.measured
    table = ", ".join(f"r({width})={measured.relative(width):.2f}" for width in measured.widths[1:])
    pays = "" if speculation.possible(1, 1) else "; no draft can pay here"
    return f"{table}{pays}"


def watch(settings: EngineSettings, speculation: Speculation | None) -> Watch | None:
    """Tells the costs what passes really take: those of generating rows only, all of them wanted.

    A strict one without a draft has a second row for company, which nobody wants.
    """
    costs = speculation.costs if speculation else None
    if costs is None:
        return None
    now = clock(settings)

    def watched(
        decode: Decode,
        tokens: list[int],
        positions: list[int],
        sequences: list[int],
        wanted: list[bool],
    ) -> Floats:
        began = now()
        logits = decode(tokens, positions, sequences, wanted)
        rows = len(tokens)
        padded = rows == 2 and len(logits) == 1
        if len(logits) == rows or padded:
            drafted = not padded and len(set(sequences)) < rows
            costs.note(rows, now() - began, drafted=drafted)
        return logits

    return watched


def clock(settings: EngineSettings) -> Callable[[], float]:
    """What a pass is timed with."""
    return calibrate.WALL if settings.gpu_layers else calibrate.CPU


def _measured(settings: EngineSettings, context: Context, vocab: int, widest: int) -> Costs:
    return calibrate.costs(context, widest=widest, vocab=vocab, clock=clock(settings))


def _draft_model(settings: EngineSettings, target: Model, limits: Limits) -> DraftModel:
    path = Path(settings.draft)
    model = Model(path, gpu_layers=settings.gpu_layers)
    if not model.rewinds:
        raise LoadFailed(f"{path.name} cannot draft: its sequences cannot be rewound")
    if model.pieces(special=True) != target.pieces(special=True) or model.eog() != target.eog():
        raise LoadFailed(f"{path.name} cannot draft: its vocabulary is not the model's")
    context = Context(
        model,
        cells=max(limits.cells, limits.context),
        sequences=limits.slots,
        batch=settings.batch,
        outputs=limits.slots,
        threads=settings.threads,
        flash_attention=settings.flash(model.head),
        unified=True,
        offload=settings.gpu_layers > 0,
    )
    once = _measured(settings, context, model.tokens, 1)
    return DraftModel(
        context,
        sequences=limits.slots,
        ends=model.eog().__contains__,
        draft_s=once(1),
        failure=DecodeFailed,
    )
