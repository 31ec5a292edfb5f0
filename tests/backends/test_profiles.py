from __future__ import annotations

import pytest

from backends.profiles import PROFILES, profile_for
from gateway.core.chat import Feature


@pytest.mark.parametrize(
    ("kind", "base_url", "named", "profile"),
    [
        ("openai", None, None, "openai"),
        ("openai", "https://api.openai.com/v1", None, "openai"),
        ("openai", "https://api.mistral.ai/v1", None, "mistral"),
        ("openai", "http://127.0.0.1:1234/v1", None, "generic"),
        ("openai", "https://api.openai.com.evil.example/v1", None, "generic"),
        ("openai", "http://127.0.0.1:8000/v1", "vllm", "vllm"),
        ("groq", None, None, "groq"),
        ("vllm", "http://gpu:8000", None, "vllm"),
        ("companion", "http://gpu:8090", None, "companion"),
        ("something", "http://gpu:8090", None, "generic"),
    ],
)
def test_which_profile(kind: str, base_url: str | None, named: str | None, profile: str) -> None:
    """A profile is the one named, else the kind's own, else the one whose address it is."""
    assert profile_for(kind, base_url, named).name == profile


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_can_be_used(name: str) -> None:
    """Each profile is listed under its own name, chats, and has an address or is self-hosted."""
    profile = PROFILES[name]
    assert profile.name == name
    assert Feature.CHAT in profile.features
    assert (profile.base_url is None) == profile.self_hosted
    assert profile.health_path is None or profile.self_hosted


@pytest.mark.parametrize(
    ("profile", "feature"),
    [
        ("groq", Feature.LOGPROBS),
        ("groq", Feature.LOGIT_BIAS),
        ("groq", Feature.N),
        ("groq", Feature.COMPLETION),
        ("vllm", Feature.FIM),
        ("cerebras", Feature.PENALTIES),
        ("generic", Feature.LOGPROBS),
        ("mistral", Feature.COMPLETION),
    ],
)
def test_what_a_provider_lacks(profile: str, feature: Feature) -> None:
    """What a provider rejects or ignores is not among its features."""
    assert feature not in PROFILES[profile].features


def test_legacy_models() -> None:
    """OpenAI serves /completions for its instruct models only."""
    openai = PROFILES["openai"]
    legacy = {Feature.COMPLETION, Feature.FIM}
    assert legacy <= openai.features_for("gpt-3.5-turbo-instruct")
    assert not legacy & openai.features_for("gpt-4o-mini")
    assert Feature.COMPLETION in PROFILES["vllm"].features_for("anything")
