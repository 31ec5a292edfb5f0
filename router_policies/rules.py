"""Operators' rules: the first `use:` that matches decides; every `locality:` that matches tightens.

The two are apart on purpose (DESIGN 2.3). `locality`, and `min_bits` and `exact` beside it, is
asked before routing and of every request, pinned ones too; RulesPolicy is one policy among others.
What happens to a request whose rule names an upstream that cannot serve it is told in
router_policies/design.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from gateway.core.flaw import Flaw, Path
from gateway.core.registry import suggest
from gateway.core.routing import Candidate, Facts, Route, Zone
from router_policies.base import Condition, Mode, Rule, Settings
from router_policies.conditions import ALWAYS, AllOf, compile_condition
from router_policies.facts import HEADER
from router_policies.static import StaticPolicy

KEYS = (
    "name", "key", "team", "priority", "when", "use", "fallback", "locality", "min_bits", "exact",
    "mode",
)  # fmt: skip
KEY_ID = re.compile(r"[0-9a-f]{8}")
TEAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST_PRIORITY = 1_000_000
MOST_BITS = 64
RULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A rule's name goes into a response header and a metric label."""


def locality(rules: Iterable[Rule], facts: Facts) -> Zone | None:
    """The tightest zone of all matching `locality:` rules; None if none matches."""
    zones = [r.locality for r in rules if r.locality is not None and r.when.matches(facts)]
    return min(zones, default=None)


def min_bits(rules: Iterable[Rule], facts: Facts) -> float | None:
    """The most that any matching rule demands in bits a weight; None if none does."""
    demands = [r.min_bits for r in rules if r.min_bits is not None and r.when.matches(facts)]
    return max(demands, default=None)


def exact(rules: Iterable[Rule], facts: Facts) -> bool:
    """Whether any matching rule refuses approximate modes."""
    return any(r.exact and r.when.matches(facts) for r in rules)


def first_use(rules: Iterable[Rule], facts: Facts) -> Rule | None:
    """The first matching rule that decides: one that has a `use:` or bypasses learning."""
    for rule in rules:
        if rule.decides and rule.when.matches(facts):
            return rule
    return None


def observed(rules: Iterable[Rule], facts: Facts) -> tuple[str, ...]:
    """The rules that only look on, and match."""
    return tuple(r.name for r in rules if r.mode is Mode.OBSERVE and r.when.matches(facts))


def targets(rule: Rule, aliases: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The upstreams that a rule's `use:` stands for; an alias stands for its own, in order."""
    if rule.use is None:
        return ()
    return aliases.get(rule.use, (rule.use,))


def reach(
    rules: Iterable[Rule],
    aliases: Mapping[str, tuple[str, ...]],
    facts: Facts,
    names: tuple[str, ...],
) -> tuple[str, ...]:
    """The upstreams to consider for a request to an alias that stands for `names`.

    A rule may send a request to an upstream that its alias does not list. That upstream joins the
    candidates here, before the hard filters see them, because a policy can bring nothing back.
    With `fallback: false` the others leave here, so that nothing else can serve the request.
    """
    rule = first_use(rules, facts)
    if rule is None or rule.use is None:
        return names
    wanted = targets(rule, aliases)
    return tuple(dict.fromkeys((*names, *wanted) if rule.fallback else wanted))


def header_names(rules: Iterable[Rule]) -> frozenset[str]:
    """The request headers that these rules look at, in lower case."""
    names = frozenset[str]().union(*(rule.when.names() for rule in rules))
    return frozenset(name.removeprefix(HEADER) for name in names if name.startswith(HEADER))


class RulesPolicy:
    """Puts the upstreams of the first matching `use:` rule first.

    Leaves the request to the next policy when no rule matches, and when the filters have removed
    everything that the rule names.
    """

    name = "rules"

    def __init__(self, settings: Settings) -> None:
        self._rules = tuple(rule for rule in settings.rules if rule.decides)
        self._aliases = settings.aliases

    def choose(self, facts: Facts, candidates: Sequence[Candidate]) -> Route | None:
        rule = first_use(self._rules, facts)
        if rule is None:
            return None
        if rule.use is None:
            return self._as_written(candidates, rule)
        present = {candidate.upstream.name: candidate for candidate in candidates}
        wanted = targets(rule, self._aliases)
        first = [present[name] for name in dict.fromkeys(wanted) if name in present]
        if not first:
            return None
        rest = [each for each in candidates if each.upstream.name not in wanted]
        order = (*first, *rest) if rule.fallback else tuple(first)
        return Route(candidates=order, reason="rule", rule=rule.name)

    def _as_written(self, candidates: Sequence[Candidate], rule: Rule) -> Route:
        """The alias's own order, which nothing behind the rules is asked about."""
        route = StaticPolicy(Settings()).choose({}, candidates)
        return replace(route, reason="rule", rule=rule.name)


def compile_rules(
    raw: object, path: Path, names: Collection[str], flaws: list[Flaw]
) -> tuple[Rule, ...]:
    """The rules that a configuration lists, in the order in which they are asked: those of a key
    before those of a team before all others, and among these by priority and place. What is wrong
    with them goes to `flaws`.

    `names` are the upstreams and aliases that `use:` may name.
    """
    if raw is None:
        return ()
    if not isinstance(raw, list | tuple):
        flaws.append(Flaw(path, "expects a list of rules"))
        return ()
    rules: list[tuple[tuple[int, float], Rule]] = []
    seen: set[str] = set()
    for index, entry in enumerate(raw):
        here = (*path, index)
        rule = _compile_rule(entry, here, names, flaws)
        if rule is None:
            continue
        if rule.name in seen:
            flaws.append(Flaw((*here, "name"), f"a rule named {rule.name!r} exists already"))
        seen.add(rule.name)
        rules.append((_rank(entry), rule))
    return tuple(rule for _, rule in sorted(rules, key=lambda pair: pair[0]))


def _rank(raw: Mapping[str, object]) -> tuple[int, float]:
    scope = 0 if "key" in raw else 1 if "team" in raw else 2
    priority = raw.get("priority", 0)
    return scope, priority if isinstance(priority, int) else 0


def _compile_rule(
    raw: object, path: Path, names: Collection[str], flaws: list[Flaw]
) -> Rule | None:
    if not isinstance(raw, Mapping):
        flaws.append(Flaw(path, f"a rule is a mapping with the keys {', '.join(KEYS)}"))
        return None
    before = len(flaws)
    for key in raw:
        if key not in KEYS:
            message = f"unknown key {key!r}{suggest(str(key), list(KEYS))}"
            flaws.append(Flaw((*path, key), message, at_key=True))
    name = raw.get("name")
    if not isinstance(name, str) or not RULE_NAME.fullmatch(name):
        message = "a rule needs a name of letters, digits, '.', '_' and '-', at most 64"
        flaws.append(Flaw((*path, "name"), message))
    when: Condition = ALWAYS
    if "when" in raw:
        when = compile_condition(raw["when"], (*path, "when"), flaws)
    when = _scoped(when, raw, path, flaws)
    mode = _mode(raw, path, flaws)
    use = _use(raw, path, names, flaws)
    zone = _locality(raw, path, flaws)
    bits = _min_bits(raw, path, flaws)
    fallback = raw.get("fallback", True)
    if not isinstance(fallback, bool):
        flaws.append(Flaw((*path, "fallback"), "fallback is true or false"))
    demanded = raw.get("exact", True)
    if demanded is not True:
        flaws.append(Flaw((*path, "exact"), "exact is true, or not said"))
    always = {"locality", "min_bits", "exact"}
    if mode is Mode.OBSERVE and always & raw.keys():
        message = "`locality:`, `min_bits:` and `exact:` always hold; they cannot only look on"
        flaws.append(Flaw((*path, "mode"), message, at_key=True))
    if not {"use", *always} & raw.keys() and mode is not Mode.BYPASS_LEARNING:
        message = "a rule says `use:`, `locality:`, `min_bits:` or `exact:`; this one none of them"
        flaws.append(Flaw(path, message))
    elif "use" not in raw and "fallback" in raw:
        flaws.append(Flaw((*path, "fallback"), "fallback belongs to `use:`", at_key=True))
    if len(flaws) > before:
        return None
    return Rule(
        name=str(name),
        when=when,
        use=use,
        fallback=bool(fallback),
        locality=zone,
        min_bits=bits,
        exact="exact" in raw,
        mode=mode,
    )


def _scoped(when: Condition, raw: Mapping[str, object], path: Path, flaws: list[Flaw]) -> Condition:
    """The condition, held to the rule's key and team where it names one."""
    scoped: dict[str, object] = {}
    for name, fact, pattern, what in (
        ("key", "key_id", KEY_ID, "a key is named by the first 8 hex digits of its digest"),
        ("team", "tenant", TEAM, "a team is a tenant's name"),
    ):
        value = raw.get(name)
        if name not in raw:
            continue
        if not isinstance(value, str) or not pattern.fullmatch(value):
            flaws.append(Flaw((*path, name), what))
            continue
        scoped[fact] = value
    priority = raw.get("priority", 0)
    if not isinstance(priority, int) or isinstance(priority, bool) or abs(priority) > MOST_PRIORITY:
        flaws.append(Flaw((*path, "priority"), "priority is a whole number; the least goes first"))
    if not scoped:
        return when
    return AllOf((compile_condition(scoped, path, flaws), when))


def _mode(raw: Mapping[str, object], path: Path, flaws: list[Flaw]) -> Mode:
    value = raw.get("mode", Mode.ENFORCE.value)
    for mode in Mode:
        if value == mode.value:
            return mode
    hint = suggest(str(value), [mode.value for mode in Mode])
    flaws.append(Flaw((*path, "mode"), f"{value!r} is not a mode{hint}"))
    return Mode.ENFORCE


def _use(
    raw: Mapping[str, object], path: Path, names: Collection[str], flaws: list[Flaw]
) -> str | None:
    use = raw.get("use")
    if "use" not in raw:
        return None
    if not isinstance(use, str):
        flaws.append(Flaw((*path, "use"), "use: is the name of an upstream or an alias"))
        return None
    if use not in names:
        hint = suggest(use, list(names))
        flaws.append(Flaw((*path, "use"), f"no upstream or alias is called {use!r}{hint}"))
    return use


def _locality(raw: Mapping[str, object], path: Path, flaws: list[Flaw]) -> Zone | None:
    if "locality" not in raw:
        return None
    labels = {zone.label: zone for zone in Zone}
    value = raw["locality"]
    if isinstance(value, Zone):
        return value
    if isinstance(value, str) and value in labels:
        return labels[value]
    hint = suggest(str(value), labels)
    flaws.append(Flaw((*path, "locality"), f"{value!r} is not a zone{hint}"))
    return None


def _min_bits(raw: Mapping[str, object], path: Path, flaws: list[Flaw]) -> float | None:
    bits = raw.get("min_bits")
    if "min_bits" not in raw:
        return None
    if isinstance(bits, int | float) and not isinstance(bits, bool) and 0 <= bits <= MOST_BITS:
        return float(bits)
    flaws.append(Flaw((*path, "min_bits"), f"min_bits is a number from 0 to {MOST_BITS}"))
    return None
