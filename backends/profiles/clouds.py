"""Providers in the cloud, each with the titles of the pages that its facts belong to.

Looked up in November 2026, mostly in excerpts and as others quote the pages; what stands behind a †
is general knowledge that was not looked up again. Where pages disagree or say nothing, a feature is
left out and a field goes on.
"""

from __future__ import annotations

from types import MappingProxyType

from backends.profiles.base import (
    Continuation,
    Others,
    Predicts,
    Profile,
    Reasoning,
    Surface,
)
from gateway.core.chat import Feature as F

BASIC = frozenset({F.CHAT, F.TOOLS, F.JSON_MODE})
EMBEDS = frozenset({F.EMBEDDINGS})
EMBEDS_TOKENS = EMBEDS | {F.TOKEN_INPUT}
OLD_LIMIT = MappingProxyType({"max_completion_tokens": "max_tokens"})
REPETITION = MappingProxyType({"repeat_penalty": "repetition_penalty"})

OPENAI = Profile(
    # "Chat Completions" and "Prompt caching" of the API reference. Unknown fields are its own 400.
    # "Predicted Outputs": these models; † the fields that it does not go with.
    name="openai",
    base_url="https://api.openai.com/v1",
    features=BASIC
    | {F.COMPLETION, F.FIM, F.ECHO, F.TOKEN_PROMPT}
    | {F.IMAGES, F.SPEECH, F.N, F.LOGPROBS, F.LOGIT_BIAS, F.SEED, F.PENALTIES},
    legacy_models=("gpt-3.5-turbo-instruct", "davinci-002", "babbage-002"),
    limit_windows=MappingProxyType({"tokens": "minute"}),
    embeddings=EMBEDS_TOKENS,
    embedders=("text-embedding-",),
    base64=True,
    surface=Surface.ONE_SHOT,
    predicts=Predicts(
        models=("gpt-4o", "gpt-4.1"), bars=frozenset({"max_completion_tokens", "modalities"})
    ),
)

GROQ = Profile(
    # "OpenAI Compatibility": 400 on logprobs, top_logprobs, logit_bias and n above 1. "API
    # Reference": penalties are accepted, but no model honours them; temperature 0 becomes 1e-8.
    # No legacy completions. "Rate Limits": requests a day. prompt_cache_key and verbosity:
    # Bifrost's "Groq" page. † "Assistant Message Prefilling"; x_groq.usage; `reasoning`.
    name="groq",
    base_url="https://api.groq.com/openai/v1",
    features=BASIC | {F.SEED},
    refuses=frozenset({"logprobs", "top_logprobs", "logit_bias", "prompt_cache_key", "verbosity"}),
    usage_paths=(("usage",), ("x_groq", "usage")),
    reasoning=Reasoning.FIELD,
    continuation=Continuation.TRAILING,
    limit_windows=MappingProxyType({"requests": "day", "tokens": "minute"}),
)

CEREBRAS = Profile(
    # "OpenAI Compatibility": 400 on both penalties, logit_bias and service_tier. "Prompt Caching":
    # prompt_tokens_details.cached_tokens. prompt_cache_key, verbosity, store: Bifrost's "Cerebras".
    # "Predicted Outputs": gpt-oss-120b, else on a dedicated endpoint (`strategy: one_shot` then).
    # † `reasoning`.
    name="cerebras",
    base_url="https://api.cerebras.ai/v1",
    features=BASIC | {F.COMPLETION, F.LOGPROBS, F.SEED},
    refuses=frozenset(
        "frequency_penalty presence_penalty logit_bias service_tier prompt_cache_key "
        "verbosity store".split()
    ),
    reasoning=Reasoning.FIELD,
    surface=Surface.ONE_SHOT,
    predicts=Predicts(models=("gpt-oss-120b",)),
)

OPENROUTER = Profile(
    # "Usage Accounting": usage with its cost comes always, `stream_options` has no effect any more.
    # "Parameters" and "Provider Routing": left alone, it routes to providers that ignore what they
    # do not know. † "Assistant Prefill"; `reasoning`.
    name="openrouter",
    base_url="https://openrouter.ai/api/v1",
    features=BASIC
    | {F.COMPLETION, F.LOGPROBS, F.LOGIT_BIAS, F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES}
    | {F.REPEAT_PENALTY},
    renames=REPETITION,
    defaults=MappingProxyType({"provider": {"require_parameters": True}}),
    stream_usage=False,
    reports_cost=True,
    reasoning=Reasoning.FIELD,
    continuation=Continuation.TRAILING,
    embeddings=EMBEDS,
    repeats_prefix=True,  # as the provider behind it does
)

TOGETHER = Profile(
    # "Chat Completions" reference: `logprobs` is a number there, another form: left out.
    # † usage in the finishing chunk, with `cached_tokens`; `reasoning`.
    name="together",
    base_url="https://api.together.xyz/v1",
    features=BASIC
    | {F.COMPLETION, F.N, F.LOGIT_BIAS, F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES}
    | {F.REPEAT_PENALTY},
    renames=MappingProxyType({**OLD_LIMIT, **REPETITION}),
    reasoning=Reasoning.FIELD,
    embeddings=EMBEDS,
)

FIREWORKS = Profile(
    # "Create Chat Completion" and "Serverless Pricing" (a cached prompt token has its own price).
    # † usage in the finishing chunk; `reasoning_content`.
    name="fireworks",
    base_url="https://api.fireworks.ai/inference/v1",
    features=BASIC
    | {F.COMPLETION, F.ECHO, F.TOKEN_PROMPT, F.N}
    | {F.LOGPROBS, F.LOGIT_BIAS, F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES},
    renames=OLD_LIMIT,
    reasoning=Reasoning.CONTENT,
    limit_windows=MappingProxyType({"requests": "minute", "tokens": "minute"}),
    embeddings=EMBEDS,
)

PERPLEXITY = Profile(
    # "Chat Completions" reference: no tools, no seed; each chunk repeats text and usage so far in
    # members that we do not read, and `delta` has what is new. Usage says the cost, which a price
    # per token cannot: each request's search is billed too. † `cost.total_cost`; thoughts are in
    # the text.
    name="perplexity",
    base_url="https://api.perplexity.ai",
    features=frozenset({F.CHAT, F.JSON_MODE, F.TOP_K, F.PENALTIES}),
    renames=OLD_LIMIT,
    stream_usage=False,
    reports_cost=True,
    reasoning=Reasoning.INLINE,
)

MISTRAL = Profile(
    # "Chat Completion" reference: 422 on any member that it does not name, `stream_options` too;
    # the finishing chunk has usage by itself. An assistant's last message needs prefix: true.
    # "Predicted outputs": these two models; they do not change the price, and nothing is counted.
    # † the list of what it names; num_cached_tokens; thoughts as parts; the answer has the prefix.
    name="mistral",
    base_url="https://api.mistral.ai/v1",
    features=BASIC | {F.N, F.SEED, F.PENALTIES},
    renames=MappingProxyType(
        {**OLD_LIMIT, "seed": "random_seed", "dimensions": "output_dimension"}
    ),
    others=Others.REFUSED,
    known=frozenset(
        "random_seed safe_prompt prediction parallel_tool_calls prompt_mode reasoning_effort "
        "guardrails metadata prompt_cache_key".split()
    ),
    stream_usage=False,
    reasoning=Reasoning.PARTS,
    continuation=Continuation.PREFIX,
    embeddings=EMBEDS,
    repeats_prefix=True,
    surface=Surface.ONE_SHOT,
    predicts=Predicts(models=("codestral-2501", "mistral-large-2411"), counts=False),
)

DEEPSEEK = Profile(
    # "Create Chat Completion", "Thinking Mode": temperature, top_p and both penalties have no
    # effect while it thinks, logprobs are a 400 then; whether it thinks, the model and `thinking`
    # say, so features that hang on it are left out. "Context Caching": prompt_cache_hit_tokens.
    # "Chat Prefix Completion (Beta)" needs the address https://api.deepseek.com/beta.
    name="deepseek",
    base_url="https://api.deepseek.com",
    features=BASIC,
    renames=OLD_LIMIT,
    ignores=frozenset({"verbosity"}),
    model_ignores=(("deepseek-reasoner", frozenset({"temperature", "top_p"})),),
    reasoning=Reasoning.CONTENT,
    continuation=Continuation.PREFIX,
    continues_at="/beta",
)

CLOUDS = (
    OPENAI,
    GROQ,
    CEREBRAS,
    OPENROUTER,
    TOGETHER,
    FIREWORKS,
    PERPLEXITY,
    MISTRAL,
    DEEPSEEK,
)
