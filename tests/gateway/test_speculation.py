"""What a record, a header and the metrics say of drafting."""

from __future__ import annotations

from gateway import speculation
from gateway.core.events import SpeculationReport
from gateway.metrics import Metrics
from tests.gateway.test_metrics import record, samples

REPORT = SpeculationReport(
    strategy="companion",
    drafted=30,
    accepted=21,
    rounds=40,
    gain=1.5,
    tokens=64,
    alpha=0.84,
    proposed=50,
    stale=2,
    sources={"model": (40, 20), "ngram": (10, 9)},
    predicted=1.6,
    usd_delta=-0.00012,
    rtt_s=0.02,
    verify_s={1: 0.02, 5: 0.025, 12: 0.04},
    held_at=(9, 5, 3, 1, 1, 1, 1, 0, 0, 1),
    ties=2,
)


def test_the_header_says_what_it_came_to() -> None:
    """Strategy, acceptance, tokens a pass, speed-up and signed dollars; a dash for what is not
    known."""
    said = speculation.header(speculation.fields(REPORT))
    assert said == "companion;alpha=0.84;tpp=1.60;speedup=1.50;usd_delta=-0.000120"
    nothing = speculation.fields(SpeculationReport(strategy="stream;status_404"))
    assert speculation.header(nothing) == ("stream;status_404;alpha=-;tpp=-;speedup=-;usd_delta=-")


def test_metrics_of_one_answer() -> None:
    """Tokens by source, the verifier's passes by width, dollars by their sign."""
    subject = Metrics(models=["auto"], upstreams=["pair"])
    subject.observe(record(upstream="pair", speculation=speculation.fields(REPORT)))
    found = samples(subject)
    assert found["tandem_spec_answers_total{end=,pair=pair,strategy=companion}"] == 1
    assert found["tandem_spec_proposed_tokens_total{pair=pair,source=ngram}"] == 10
    assert found["tandem_spec_held_tokens_total{pair=pair,source=model}"] == 20
    assert found["tandem_spec_self_tokens_total{pair=pair}"] == 43
    assert found["tandem_spec_stale_drafts_total{pair=pair}"] == 2
    assert found["tandem_spec_saved_usd_total{pair=pair}"] == 0.00012
    assert "tandem_spec_cost_usd_total{pair=pair}" not in found
    assert found["tandem_spec_verify_seconds_count{pair=pair,width=8}"] == 1
    assert found["tandem_spec_verify_seconds_count{pair=pair,width=8+}"] == 1
    assert found["tandem_spec_prediction_ratio_count{pair=pair}"] == 1
    assert found["tandem_spec_accepted_position_total{pair=pair,position=1}"] == 9
    assert found["tandem_spec_accepted_position_total{pair=pair,position=8+}"] == 1
    assert found["tandem_spec_ties_total{pair=pair}"] == 2


def test_a_fallback_has_a_cause_from_a_closed_list() -> None:
    """What an upstream calls its refusal makes no series of its own."""
    subject = Metrics(models=["auto"], upstreams=["pair"])
    for strategy in ("stream;status_404", "stream;made-up-word", "companion;draft-lost"):
        said = speculation.fields(SpeculationReport(strategy=strategy))
        subject.observe(record(upstream="pair", speculation=said))
    found = samples(subject)
    assert found["tandem_spec_fallbacks_total{cause=status_404,pair=pair}"] == 1
    assert found["tandem_spec_fallbacks_total{cause=other,pair=pair}"] == 1
    assert found["tandem_spec_fallbacks_total{cause=draft-lost,pair=pair}"] == 1
