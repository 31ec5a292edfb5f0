"""What an operator may say of an upstream on the OpenAI wire; wrong entries are refused here."""

from __future__ import annotations

import re

import httpx
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from backends.base import Options
from backends.clocks import Timeouts
from backends.prices import listed_price
from backends.profiles import PROFILES, Continuation, Profile, Reasoning, profile_for
from gateway.core.chat import Feature
from gateway.core.routing import Price


class OpenAIOptions(Options):
    """A config entry of kind openai, companion, or one that is called as its profile is.

    `profile` names the provider where kind and address do not tell; `extra_features` and
    `without_features` correct it for one model (`images` for a vision model on vLLM), and
    `continuation` says how it goes on with an answer that somebody else began. `reasoning` says
    where its thoughts are: `inline` takes `<think>…</think>` out of the text, `none` leaves it in.
    `http2` asks over one HTTP/2 connection where the server chooses it in its TLS handshake.
    """

    # A wrong key must not show up in the sentence that says it is wrong.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: str = ""
    base_url: str | None = None
    api_key: SecretStr | None = None
    profile: str | None = None
    extra_features: tuple[Feature, ...] = ()
    without_features: tuple[Feature, ...] = ()
    continuation: Continuation | None = None
    http2: bool = False
    reasoning: Reasoning | None = None
    timeouts: Timeouts = Timeouts()
    max_event_bytes: int = Field(default=1024 * 1024, gt=0)
    max_body_bytes: int = Field(default=32 * 1024 * 1024, gt=0)

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = httpx.URL(value)
        except httpx.InvalidURL:
            raise ValueError("base_url is not a URL") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("base_url must be http://… or https://…")
        if url.port is not None and not 0 < url.port < 65536:
            raise ValueError("base_url names a port that cannot exist")
        if url.userinfo or url.query or url.fragment:
            raise ValueError("base_url takes no credentials, query or fragment; use api_key")
        return value.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _header_safe(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("api_key has a blank, a line break or another unprintable character")
        return value

    @field_validator("profile")
    @classmethod
    def _known_profile(cls, value: str | None) -> str | None:
        if value is not None and value not in PROFILES:
            raise ValueError(f"unknown profile; known: {', '.join(sorted(PROFILES))}")
        return value

    @model_validator(mode="after")
    def _enough_to_call(self) -> OpenAIOptions:
        facts = self.facts()
        if self.base_url is None and facts.base_url is None:
            raise ValueError(f"kind {self.kind} needs a base_url")
        if not self.model and not facts.self_hosted:
            raise ValueError(f"kind {self.kind} needs a model")
        if self.http2 and not (self.base_url or facts.base_url or "").startswith("https://"):
            raise ValueError("http2 needs a base_url that begins with https://")
        return self

    def price_or_listed(self) -> Price | None:
        """The operator's price, else the list's for this provider's model."""
        return super().price_or_listed() or listed_price(self.facts().name, self.model)

    def says_cost(self) -> bool:
        return self.facts().reports_cost

    def facts(self) -> Profile:
        return profile_for(self.kind, self.base_url, self.profile)

    def thinks(self) -> Reasoning:
        return self.facts().reasoning if self.reasoning is None else self.reasoning

    def goes_on(self) -> tuple[Continuation, bool]:
        """How it goes on with a chat answer, and whether it may say the beginning again."""
        facts = self.facts()
        if self.continuation is not None:
            return self.continuation, self.continuation is not facts.continuation or (
                facts.repeats_prefix
            )
        here = (self.base_url or facts.base_url or "").endswith(facts.continues_at)
        return (facts.continuation if here else Continuation.NONE), facts.repeats_prefix
