"""Plain data → validated sections, with everything that is wrong gathered on the way.

A backend's entry is validated by the backend's own `options_model`, found by `kind`, so that a new
backend changes nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from backends.base import Choosy, Options
from gateway.config_aliases import default_aliases
from gateway.config_balance import balance_flaws
from gateway.config_privacy import Privacy, unknown_kinds
from gateway.config_router import Router, RouterFileError, read_router
from gateway.config_sections import Alias, CacheSection, Key, Memory, RouterSection, Server
from gateway.core.exchange import Caller
from gateway.core.flaw import Flaw, Path
from gateway.core.registry import UnknownName, load, suggest
from router_policies import POLICIES
from router_policies.rules import compile_rules

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
"""Names of upstreams and aliases go into URLs, response headers and metric labels."""
SECTIONS = (
    "server",
    "upstreams",
    "models",
    "rules",
    "privacy",
    "router",
    "memory",
    "cache",
    "keys",
)

ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(
    raw: object, kinds: Mapping[str, str], folder: FilePath = FilePath()
) -> tuple[dict[str, Any] | None, list[Flaw]]:
    """The fields of a Config, or None and what is wrong. Never raises, whatever `raw` holds.

    Files that it names are relative to `folder`.
    """
    if not isinstance(raw, Mapping):
        return None, [Flaw((), f"a configuration is a mapping with the keys {', '.join(SECTIONS)}")]
    return _Validation(raw, kinds, folder).run()


class _Validation:
    """One pass over a configuration's plain data, gathering flaws on the way."""

    def __init__(self, raw: Mapping[str, Any], kinds: Mapping[str, str], folder: FilePath) -> None:
        self.raw = raw
        self.kinds = kinds
        self.folder = folder
        self.flaws: list[Flaw] = []

    def run(self) -> tuple[dict[str, Any] | None, list[Flaw]]:
        for key in self.raw:
            if key not in SECTIONS:
                message = f"unknown section {key!r}{suggest(str(key), list(SECTIONS))}"
                self.flaws.append(Flaw((key,), message, at_key=True))
        server = self._section(Server, self.raw.get("server"), ("server",))
        privacy = self._privacy()
        memory = self._section(Memory, self.raw.get("memory"), ("memory",))
        cache = self._section(CacheSection, self.raw.get("cache"), ("cache",))
        named = self._mapping("upstreams")
        upstreams, parts = self._upstreams(named)
        order = self._build_order(parts)
        aliases = self._aliases(named, upstreams)
        router = self._router(aliases, named)
        names = (*named, *aliases)
        rules = compile_rules(self.raw.get("rules"), ("rules",), names, self.flaws)
        callers = self._callers(names)
        if self.flaws:
            return None, self.flaws
        fields = {
            "server": server,
            "upstreams": MappingProxyType(upstreams),
            "build_order": order,
            "aliases": MappingProxyType(aliases),
            "rules": rules,
            "privacy": privacy,
            "router": router,
            "memory": memory,
            "cache": cache,
            "callers": MappingProxyType(callers),
        }
        return fields, []

    def _section(self, model: type[ModelT], raw: Any, path: Path) -> ModelT | None:
        """`raw` as that model, or None with flaws."""
        if raw is None:
            raw = {}
        if not isinstance(raw, Mapping):
            known = ", ".join(model.model_fields)
            self.flaws.append(Flaw(path, f"expects a mapping with the keys {known}"))
            return None
        try:
            return model.model_validate(dict(raw))
        except ValidationError as error:
            for each in error.errors(include_url=False, include_context=False):
                self.flaws.append(_flaw(model, each, path))
            return None

    def _mapping(self, key: str) -> Mapping[str, Any]:
        """A section of named entries; entries with a bad name are flaws and left out."""
        raw = self.raw.get(key)
        if raw is None:
            return {}
        if not isinstance(raw, Mapping):
            self.flaws.append(Flaw((key,), "expects a mapping of names"))
            return {}
        good = {}
        for name, entry in raw.items():
            if isinstance(name, str) and NAME.fullmatch(name):
                good[name] = entry
            else:
                message = "a name has letters, digits and . _ : / @ + -, at most 128, no blanks"
                self.flaws.append(Flaw((key, name), message, at_key=True))
        return good

    def _privacy(self) -> Privacy | None:
        self.flaws += unknown_kinds(self.raw.get("privacy"))
        return self._section(Privacy, self.raw.get("privacy"), ("privacy",))

    def _router(self, aliases: Mapping[str, Alias], named: Mapping[str, Any]) -> Router | None:
        """The section with the files that it names, read and checked; None with flaws.

        The artifact that Tandem brings is read only if some alias goes by it.
        """
        section = self._section(RouterSection, self.raw.get("router"), ("router",))
        if section is None:
            return None
        used = any("learned" in alias.policy for alias in aliases.values())
        try:
            return read_router(section, self.folder, used=used, upstreams=named)
        except RouterFileError as error:
            self.flaws.append(Flaw(("router", error.key), str(error)))
            return None

    def _upstreams(
        self, named: Mapping[str, Any]
    ) -> tuple[dict[str, Options], dict[str, tuple[str, ...]]]:
        upstreams: dict[str, Options] = {}
        parts: dict[str, tuple[str, ...]] = {}
        for name, entry in named.items():
            path: Path = ("upstreams", name)
            backend = self._backend(entry, path)
            if backend is None:
                continue
            options = self._section(backend.options_model, entry, path)
            if options is None:
                continue
            upstreams[name] = options
            parts[name] = tuple(backend.parts(options))
            for part in dict.fromkeys(parts[name]):
                if part not in named:
                    hint = suggest(part, list(named))
                    message = f"is made of {part!r}, and no upstream is called so{hint}"
                    self.flaws.append(Flaw(_where(entry, part, path), message))
        for name, options in upstreams.items():
            backend = load(self.kinds, options.kind, what="kind")
            if isinstance(backend, Choosy):
                for key, message in backend.misfits(options, upstreams):
                    self.flaws.append(Flaw(("upstreams", name, key), message))
        return upstreams, parts

    def _backend(self, entry: Any, path: Path) -> Any:
        if not isinstance(entry, Mapping):
            self.flaws.append(Flaw(path, "an upstream is a mapping with at least a kind"))
            return None
        kind = entry.get("kind")
        if not isinstance(kind, str):
            known = ", ".join(sorted(self.kinds))
            self.flaws.append(Flaw((*path, "kind"), f"an upstream needs a kind; known: {known}"))
            return None
        try:
            return load(self.kinds, kind, what="kind")
        except UnknownName as error:
            self.flaws.append(Flaw((*path, "kind"), str(error)))
        except ImportError as error:
            self.flaws.append(Flaw((*path, "kind"), f"{kind!r} cannot be used here: {error}"))
        return None

    def _build_order(self, parts: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Upstreams, parts first. An upstream that is part of itself is a flaw."""
        order: dict[str, None] = {}

        def visit(name: str, trail: tuple[str, ...]) -> None:
            if name in trail:
                circle = " → ".join((*trail[trail.index(name) :], name))
                message = f"is made of itself: {circle}"
                self.flaws.append(Flaw(("upstreams", name), message, at_key=True))
                return
            if name in order or name not in parts:
                return
            for part in parts[name]:
                visit(part, (*trail, name))
            order[name] = None

        for name in parts:
            visit(name, ())
        return tuple(order)

    def _aliases(
        self, named: Mapping[str, Any], upstreams: Mapping[str, Options]
    ) -> dict[str, Alias]:
        aliases: dict[str, Alias] = {}
        own = self._mapping("models")
        for name, entry in own.items():
            path: Path = ("models", name)
            if name in named:
                message = f"{name!r} is an upstream already; an alias needs a name of its own"
                self.flaws.append(Flaw(path, message, at_key=True))
            alias = self._section(Alias, entry, path)
            if alias is None:
                continue
            aliases[name] = alias
            self._unknown(alias.candidates, named, (*path, "candidates"), "upstream")
            self._unknown(alias.policy, POLICIES, (*path, "policy"), "policy")
            for key in alias.idle_keys():
                message = f"{key} is for the policy `learned`, which this alias does not have"
                self.flaws.append(Flaw((*path, key), message, at_key=True))
            self.flaws += balance_flaws(entry.get("balance"), alias.candidates, path)
        for name, candidates in default_aliases(upstreams).items():
            if name not in own and name not in named:
                aliases[name] = Alias(candidates=candidates)
        return aliases

    def _callers(self, names: tuple[str, ...]) -> dict[str, Caller]:
        raw = self.raw.get("keys")
        if raw is not None and not isinstance(raw, list | tuple):
            self.flaws.append(Flaw(("keys",), "expects a list of keys"))
            return {}
        callers: dict[str, Caller] = {}
        for index, entry in enumerate(raw or ()):
            path: Path = ("keys", index)
            key = self._section(Key, entry, path)
            if key is None:
                continue
            digest = key.digest.removeprefix("sha256:")
            if digest in callers:
                self.flaws.append(Flaw((*path, "digest"), "this key is in the list already"))
            self._unknown(key.models or (), names, (*path, "models"), "upstream or alias")
            callers[digest] = Caller(
                tenant=key.tenant,
                key_id=digest[:8],
                zone=key.zone,
                models=None if key.models is None else frozenset(key.models),
            )
        return callers

    def _unknown(self, listed: Any, known: Any, path: Path, what: str) -> None:
        for index, name in enumerate(listed):
            if name not in known:
                message = f"unknown {what} {name!r}{suggest(name, list(known))}"
                self.flaws.append(Flaw((*path, index), message))
            elif name in listed[:index]:
                self.flaws.append(Flaw((*path, index), f"{name!r} is listed twice"))


def _where(entry: Mapping[str, Any], part: str, path: Path) -> Path:
    """The place in an entry where a part is named; the entry itself if it is deeper down."""
    for key, value in entry.items():
        if value == part:
            return (*path, key)
        if isinstance(value, list | tuple) and part in value:
            return (*path, key, value.index(part))
    return path


def _flaw(model: type[BaseModel], error: Any, path: Path) -> Flaw:
    """pydantic's finding in our words; never with the value that it found."""
    loc: Path = tuple(error["loc"])
    here = (*path, *loc)
    match error["type"]:
        case "extra_forbidden":
            known = _known_keys(model, loc[:-1])
            message = f"unknown key {loc[-1]!r}{suggest(str(loc[-1]), known)}"
            return Flaw(here, message, at_key=True)
        case "missing":
            return Flaw(here, f"{loc[-1]} is required")
        case "value_error":
            return Flaw(here, error["msg"].removeprefix("Value error, "))
        case _:
            # "Input should be …", "Tuple should have … after validation": its types are not YAML's.
            message = error["msg"].replace(" after validation", "")
            return Flaw(here, message[max(0, message.find("should")) :])


def _known_keys(model: type[BaseModel], loc: Path) -> list[str]:
    """The keys of the model that a location inside `model` leads to."""
    current: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int) or current is None:
            continue
        found = current.model_fields.get(part)
        current = None if found is None else _model_in(found.annotation)
    return [] if current is None else list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner: Callable[[Any], type[BaseModel] | None] = _model_in
    return next((found for arg in get_args(annotation) if (found := inner(arg))), None)
