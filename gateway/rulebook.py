"""What a configuration says about routing, compiled once into what a planner asks.

A reload compiles the next one; what an alias's closed loops had learnt goes over where it means the
same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from gateway.config import Config
from gateway.conversations import Conversations
from gateway.core.routing import Candidate, Facts, Zone
from gateway.plan import Alias, Rulebook
from gateway.privacy import Detector
from gateway.tightened import Tightened
from router_policies.base import Assessor, Mode
from router_policies.chain import build as build_policy
from router_policies.learned.utility import worth
from router_policies.pin import PinPolicy
from router_policies.rules import exact, locality, min_bits, observed


def rulebook(
    config: Config,
    before: Rulebook | None = None,
    *,
    detector: Detector | None = None,
    conversations: Conversations | None = None,
    tightened: Tightened | None = None,
) -> Rulebook:
    """The configuration's say on routing, compiled once.

    What an alias's closed loops had learnt under `before` goes on, where it means the same.
    """
    settings = config.policy_settings
    aliases = {
        name: Alias(
            candidates=alias.candidates,
            policy=build_policy(alias.policy, replace(settings, weights=alias.weights_for(name))),
            assessor=assessor(config, name, before),
            terms=terms(config, name),
            deadline_s=alias.deadline,
            min_bits=alias.min_bits,
            conversations=conversations if "sticky" in alias.policy else None,
            groups=alias.balance,
            bigger_context=alias.bigger_context,
        )
        for name, alias in config.aliases.items()
    }

    # Each request is asked about by the rules that have a say in the matter, not by all.
    rules = config.rules
    placing = tuple(rule for rule in rules if rule.locality is not None)
    demanding = tuple(rule for rule in rules if rule.min_bits is not None)
    refusing = tuple(rule for rule in rules if rule.exact)
    watching = tuple(rule for rule in rules if rule.mode is Mode.OBSERVE)

    def by_rule(facts: Facts) -> Zone | None:
        return locality(placing, facts) if placing else None

    def bits(facts: Facts) -> float | None:
        return min_bits(demanding, facts) if demanding else None

    def by_rule_exact(facts: Facts) -> bool:
        return exact(refusing, facts) if refusing else False

    def looking_on(facts: Facts) -> tuple[str, ...]:
        return observed(watching, facts)

    return Rulebook(
        aliases=aliases,
        pin=PinPolicy(),
        locality=by_rule,
        min_bits=bits,
        exact=by_rule_exact,
        reach=config.reach,
        led={rule.name: rule.use for rule in rules if rule.use is not None},
        headers=config.rule_headers,
        default_zone=config.privacy.default,
        epoch=hashlib.sha256(repr((config.aliases, rules)).encode()).hexdigest()[:16],
        deadline_s=config.server.deadline,
        strict_parameters=config.server.strict_parameters,
        detector=detector,
        tightened=tightened,
        rules=rules,
        observed=looking_on if watching else None,
    )


def assessor(config: Config, name: str, before: Rulebook | None) -> Assessor | None:
    """What predicts for an alias whose policy goes by predictions."""
    alias, artifact = config.aliases[name], config.router.artifact
    if "learned" not in alias.policy or artifact is None:
        return None
    from router_policies.learned.assessor import AliasAssessor  # numpy only for those who use it

    earlier = before.aliases[name].assessor if before and name in before.aliases else None
    return AliasAssessor(
        artifact,
        time.monotonic,
        cloud_share=alias.cloud_share,
        usd_per_hour=alias.spend_cap_usd_per_hour,
        shadow=config.router.shadow,
        before=earlier if isinstance(earlier, AliasAssessor) else None,
    )


def terms(
    config: Config, name: str
) -> Callable[[Candidate, Facts], Mapping[str, float | None]] | None:
    """What a candidate is worth to an alias whose policy goes by predictions, term by term."""
    alias, abilities = config.aliases[name], config.router.abilities
    if "learned" not in alias.policy:
        return None
    weights = alias.weights_for(name)
    return lambda candidate, facts: asdict(worth(candidate, facts, weights, abilities))
