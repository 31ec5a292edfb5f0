"""The closed list of what rules and policies may know of a request, and where each comes from."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gateway.core.chat import ChatRequest, Endpoint, Feature, utf8_length
from gateway.core.exchange import Caller
from gateway.core.routing import Facts, Zone

HEADER = "header."
"""Prefix of the facts that come from a request header, by its lower-case name."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
"""A token of RFC 9110 in lower case: nothing else can be the name of a header that was sent."""

BYTES_PER_TOKEN = 4
"""For the `prompt_tokens` estimate: English and code in present vocabularies run at 3 to 5."""

SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
"""Never a fact: a rule that matched one would keep a credential in the configuration."""

STICKY = "sticky"
"""The upstream that answered the conversation's last turn: a fact for policies behind the rules. No
rule can ask for it, since where a request may go must not depend on where it went."""


class Kind(StrEnum):
    """The type of a fact, which decides what it can be compared with."""

    TEXT = "text"
    NUMBER = "a number"
    FLAG = "true or false"


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the list. `choices` closes the values of a text fact."""

    kind: Kind
    doc: str
    choices: tuple[str, ...] = ()


FACTS: Mapping[str, Fact] = {
    "model": Fact(Kind.TEXT, "the name that the client asked for"),
    "endpoint": Fact(Kind.TEXT, "what is asked for", tuple(e.value for e in Endpoint)),
    "dialect": Fact(Kind.TEXT, "the client's wire, e.g. openai_chat"),
    "stream": Fact(Kind.FLAG, "the client wants a stream"),
    "tenant": Fact(Kind.TEXT, "the key's tenant, `default` without one"),
    "key_id": Fact(Kind.TEXT, "first 8 hex digits of the key's digest, empty without keys"),
    "zone": Fact(Kind.TEXT, "the key's own zone, before any rule", tuple(z.label for z in Zone)),
    "prompt_bytes": Fact(Kind.NUMBER, "UTF-8 bytes of everything a model will read"),
    "prompt_tokens": Fact(
        Kind.NUMBER,
        "an estimate: prompt_bytes / 4, rounded up; exact for a prompt of token ids",
    ),
    "last_user_bytes": Fact(Kind.NUMBER, "UTF-8 bytes of the last user turn, the prompt or inputs"),
    "messages": Fact(Kind.NUMBER, "messages of any role; 0 for a plain prompt"),
    "turns": Fact(Kind.NUMBER, "user messages; 0 for a plain prompt"),
    "has_system": Fact(Kind.FLAG, "a system or developer message is present"),
    "has_tools": Fact(Kind.FLAG, "tools are offered"),
    "has_images": Fact(Kind.FLAG, "an image is attached"),
    "has_schema": Fact(Kind.FLAG, "structured output is asked for (`response_format`)"),
    "suffix": Fact(Kind.FLAG, "fill-in-the-middle: a suffix is given"),
    "max_tokens": Fact(Kind.NUMBER, "the client's limit; missing if it set none"),
    "temperature": Fact(Kind.NUMBER, "the client's temperature; missing if it set none"),
}
ROUTER_FACTS: Mapping[str, Fact] = {
    "router.score": Fact(Kind.NUMBER, "the quality that the strong side is expected to add"),
    "router.weak_ok": Fact(Kind.NUMBER, "the chance of a good answer from the local side"),
    "router.strong_ok": Fact(Kind.NUMBER, "the same from the strong side"),
    "router.novelty": Fact(Kind.NUMBER, "how new the prompt's words are to the router, 0 to 1"),
    "router.rank": Fact(Kind.NUMBER, "the share of recent requests that score lower"),
    "router.cut": Fact(Kind.NUMBER, "the rank from which the strong side is taken"),
    "router.shadow": Fact(Kind.NUMBER, "the score of an artifact that decides nothing"),
    "router.capped": Fact(Kind.FLAG, "the hour's spending is used up"),
}
"""What an `Assessor` adds, after the hard filters, for policies alone. Rules cannot ask for them: a
rule is decided before anything is predicted, and no prediction may widen or tighten anything."""

HEADER_FACT = Fact(Kind.TEXT, "a request header by its lower-case name; missing if not sent")


def find(name: str) -> Fact | None:
    """The fact of that name, or None. Header names are matched in lower case."""
    if name.startswith(HEADER):
        return HEADER_FACT if HEADER_NAME.fullmatch(name, len(HEADER)) else None
    return FACTS.get(name)


def facts(
    request: ChatRequest,
    caller: Caller,
    headers: Mapping[str, str],
    wanted: Collection[str],
) -> Facts:
    """What is known of a request. Pure; a fact that the request does not have is absent.

    `headers` has lower-case names. `wanted` lists the headers that rules look at
    (`rules.header_names`): no other is copied, so that facts can be kept without keeping secrets.
    It has no default, because a `locality:` rule on a header that is not looked at would be silent.
    """
    roles = [message.role for message in request.messages]
    prompt_bytes = request.text_bytes
    exact = isinstance(request.prompt, tuple)
    known: dict[str, Any] = {
        "model": request.model,
        "endpoint": request.endpoint.value,
        "dialect": request.dialect,
        "stream": request.stream,
        "tenant": caller.tenant,
        "key_id": caller.key_id,
        "zone": caller.zone.label,
        "prompt_bytes": prompt_bytes,
        "prompt_tokens": prompt_bytes if exact else -(-prompt_bytes // BYTES_PER_TOKEN),
        "last_user_bytes": _last_user_bytes(request),
        "messages": len(roles),
        "turns": roles.count("user"),
        "has_system": "system" in roles or "developer" in roles,
        "has_tools": Feature.TOOLS in request.features,
        "has_images": Feature.IMAGES in request.features,
        "has_schema": Feature.JSON_MODE in request.features,
        "suffix": request.suffix is not None,
    }
    if request.sampling.max_tokens is not None:
        known["max_tokens"] = request.sampling.max_tokens
    if request.sampling.temperature is not None:
        known["temperature"] = request.sampling.temperature
    for name in wanted:
        if name in headers:
            known[HEADER + name] = headers[name]
    return known


def _last_user_bytes(request: ChatRequest) -> int:
    for message in reversed(request.messages):
        if message.role == "user":
            return utf8_length(message.text)
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    return request.text_bytes if request.inputs else utf8_length(request.prompt)
