"""One YAML file → one frozen Config, or a ConfigError that lists everything wrong with it.

`load` reads a file; `Config.build` takes the same sections as plain data, and is what zero
configuration uses. Both go through one validation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from backends import BACKENDS
from backends.base import Options
from gateway.config_privacy import Privacy
from gateway.config_references import References
from gateway.config_router import Router
from gateway.config_sections import Alias, CacheSection, ExactCache, Memory, Server
from gateway.config_validation import validate
from gateway.config_yaml import Place, parse
from gateway.core.exchange import Caller
from gateway.core.flaw import Flaw, dotted
from gateway.core.routing import Facts
from router_policies.base import Rule, Settings
from router_policies.rules import header_names, reach

MAX_CONFIG = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct. `line` and `column` count from 1; 0 where there is no text."""

    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ValueError):
    """A configuration that cannot be used. `problems` has all that was found, in text order."""

    def __init__(self, problems: tuple[Problem, ...], source: str = "") -> None:
        self.problems = problems
        self.source = source
        super().__init__("\n".join(self._line(problem) for problem in problems))

    def _line(self, problem: Problem) -> str:
        where = self.source
        if problem.line:
            where = f"{where or 'line'}:{problem.line}:{problem.column}"
        return f"{where}: {problem}" if where else str(problem)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything an operator may say, validated. Immutable: a reload makes a new one.

    `upstreams` are options by name, in the file's order; `build_order` has every combined upstream
    behind its parts. `aliases` are the file's and the default ones. Secrets are inside `upstreams`
    and `cache`, so neither is part of the repr.
    """

    server: Server = field(default_factory=Server)
    upstreams: Mapping[str, Options] = field(default_factory=dict, repr=False)
    build_order: tuple[str, ...] = ()
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    privacy: Privacy = field(default_factory=Privacy)
    router: Router = field(default_factory=Router)
    memory: Memory = field(default_factory=Memory)
    cache: CacheSection = field(default_factory=CacheSection, repr=False)
    callers: Mapping[str, Caller] = field(default_factory=dict)
    """Who may come in, by the SHA-256 of their key in hex; empty: no keys."""

    @classmethod
    def build(cls, *, kinds: Mapping[str, str] = BACKENDS, **sections: Any) -> Config:
        """A Config from sections of plain data. Raises ConfigError, without line numbers."""
        fields, flaws = validate(sections, kinds)
        if fields is None:
            raise ConfigError(tuple(Problem(0, 0, dotted(f.path), f.message) for f in flaws))
        return cls(**fields)

    def leaving_no_trace(self) -> Config:
        """For a command that serves nobody: no labels are logged, no answer is kept or reused."""
        return replace(
            self,
            cache=CacheSection(exact=ExactCache(memory=0)),
            router=replace(self.router, labels=None),
        )

    @cached_property
    def policy_settings(self) -> Settings:
        """What policies are built with."""
        names = {name: alias.candidates for name, alias in self.aliases.items()}
        return Settings(
            rules=self.rules,
            aliases=names,
            abilities=self.router.abilities,
            novelty_limit=self.router.novelty_limit,
            unsure=self.router.unsure,
        )

    @cached_property
    def rule_headers(self) -> frozenset[str]:
        """The request headers that any rule looks at: what `facts` must be given."""
        return header_names(self.rules)

    def reach(self, alias: str | None, facts: Facts, names: tuple[str, ...]) -> tuple[str, ...]:
        """`names`, and what a matching `use:` rule adds or leaves of them (see rules.reach).

        Unchanged for a pin (`alias` None) and for an alias whose policy leaves rules out.
        """
        if alias is None or "rules" not in self.aliases[alias].policy:
            return names
        return reach(self._deciding, self.policy_settings.aliases, facts, names)

    @cached_property
    def _deciding(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.decides)


def load(
    path: str | Path,
    env: Mapping[str, str] = os.environ,
    kinds: Mapping[str, str] = BACKENDS,
) -> Config:
    """The configuration in a file. Raises ConfigError with every problem and its line."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError((Problem(0, 0, "", f"cannot read it: {why}"),), str(path)) from None
    if len(content) > MAX_CONFIG:
        raise ConfigError((Problem(0, 0, "", "larger than 4 MiB"),), str(path))
    return loads(text, env=env, kinds=kinds, source=str(path), folder=path.parent)


def loads(
    text: str,
    *,
    env: Mapping[str, str],
    kinds: Mapping[str, str] = BACKENDS,
    source: str = "config",
    folder: Path = Path(),
) -> Config:
    """The configuration in a text; `file:` references are relative to `folder`."""
    document = parse(text)
    placed = list(document.flaws)
    fields: dict[str, Any] | None = None
    if document.value is not None or not placed:
        references = References(env=env, folder=folder)
        raw = references.expand(document.value)
        fields, flaws = validate({} if raw is None else raw, kinds, folder)
        # What a reference left unresolved is also wrong in its place; one report is enough.
        broken = {flaw.path for flaw in references.flaws}
        flaws = references.flaws + [flaw for flaw in flaws if flaw.path not in broken]
        for flaw in flaws:
            hidden = Flaw(flaw.path, references.hide(flaw.message), flaw.at_key)
            placed.append((hidden, document.place(hidden) or Place(1, 1)))
    if fields is None or placed:
        placed.sort(key=lambda pair: (pair[1].line, pair[1].column))
        problems = (Problem(at.line, at.column, dotted(f.path), f.message) for f, at in placed)
        raise ConfigError(tuple(dict.fromkeys(problems)), source)
    return Config(**fields)
