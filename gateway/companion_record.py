"""The record of a companion's session: what a request leaves, a session leaves too."""

from __future__ import annotations

import secrets

from backends.speculative.seams import Ended
from gateway.core.exchange import ExchangeRecord, RecordDraft
from gateway.core.routing import Upstream
from gateway.settle import Energy, note_cost


def session_record(
    ended: Ended, upstream: Upstream, energy: Energy, created: float
) -> ExchangeRecord:
    """The record of a session that reached its target; `created` is its end, wall clock."""
    well = ended.outcome in ("ok", "cancelled")
    draft = RecordDraft(
        id="ses_" + secrets.token_hex(12),
        endpoint="session",
        model=ended.model,
        stream=True,
        tenant=ended.caller.tenant,
        key_id=ended.caller.key_id,
        zone=ended.caller.zone.label,
        created=created - ended.seconds,
        upstream=upstream.name,
        upstream_model=upstream.model,
        tier=upstream.tier,
        reason="pin",
        usage=ended.usage,
        duration_s=ended.seconds,
        outcome=ended.outcome if well else "upstream_error",
        error=None if well else ended.outcome,
        speculation={
            "strategy": "verify",
            "drafted": ended.drafted,
            "accepted": ended.accepted,
            "rounds": ended.rounds,
            "gain": None,
            "exactness": ended.exactness or None,
            "margin_min": ended.margin_min,
            "resumes": ended.resumes,
            "drafts": ended.drafts or None,
        },
    )
    draft.energy_j, draft.energy_estimated = energy(upstream, ended.seconds)
    note_cost(draft, upstream)
    return draft.freeze()
