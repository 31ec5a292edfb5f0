"""Servers that an operator runs, each with the manual or source that its facts belong to.

TensorRT-LLM's source, Ollama's and LM Studio's lists and vLLM's pull request were looked up in
November 2026; what stands behind a † is general knowledge that was not looked up again.

Most of them parse a request into a type of their own and drop, without a word, what it has no
member for; so the fields that they do know are listed here. Images depend on the model, which an
operator knows.
"""

from __future__ import annotations

from backends.profiles.base import Continuation, Others, Profile, Reasoning, Surface
from backends.profiles.clouds import BASIC, EMBEDS, EMBEDS_TOKENS, OLD_LIMIT, REPETITION
from gateway.core.chat import Feature as F

VLLM = Profile(
    # "OpenAI-Compatible Server". Extra members are allowed and ignored since 0.6.5 (vllm pull
    # request 10463), with a debug line in its own log. No `suffix` (400). `reasoning_content`
    # became `reasoning` later; prompt_tokens_details with --enable-prompt-tokens-details. † the
    # list of its members.
    name="vllm",
    features=BASIC
    | {F.COMPLETION, F.ECHO, F.TOKEN_PROMPT, F.N, F.LOGPROBS, F.LOGIT_BIAS}
    | {F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES}
    | {F.REPEAT_PENALTY, F.IGNORE_EOS, F.MIN_TOKENS},
    renames=REPETITION,
    others=Others.IGNORED,
    known=frozenset(
        "user parallel_tool_calls reasoning_effort include_reasoning thinking_token_budget best_of "
        "use_beam_search length_penalty stop_token_ids include_stop_str_in_output bad_words "
        "allowed_token_ids skip_special_tokens spaces_between_special_tokens "
        "truncate_prompt_tokens prompt_logprobs add_generation_prompt continue_final_message "
        "add_special_tokens documents mm_processor_kwargs media_io_kwargs structured_outputs "
        "guided_json guided_regex guided_choice guided_grammar guided_whitespace_pattern "
        "return_tokens_as_token_ids return_token_ids logits_processors repetition_detection "
        "chat_template chat_template_kwargs cache_salt priority kv_transfer_params vllm_xargs "
        "request_id".split()
    ),
    reasoning=Reasoning.CONTENT,
    continuation=Continuation.FLAG,
    self_hosted=True,
    health_path="/health",
    versioned=True,
    embeddings=EMBEDS_TOKENS,
    base64=True,
    surface=Surface.PREFIX_FANOUT,
)

SGLANG = Profile(
    # "OpenAI APIs - Completions" and "Reasoning Parser"; † its protocol.py drops
    # unknown members; the list of those it has.
    name="sglang",
    features=VLLM.features,
    renames=REPETITION,
    others=Others.IGNORED,
    known=frozenset(
        "user best_of regex ebnf stop_token_ids stop_regex no_stop_trim skip_special_tokens "
        "include_stop_str_in_output lora_path session_params return_hidden_states rid "
        "separate_reasoning stream_reasoning reasoning_effort continue_final_message "
        "custom_logit_processor custom_params json_schema "
        "chat_template_kwargs cache_salt priority".split()
    ),
    reasoning=Reasoning.CONTENT,
    continuation=Continuation.FLAG,
    self_hosted=True,
    health_path="/health",
    versioned=True,
    embeddings=EMBEDS,
)

TENSORRT_LLM = Profile(
    # trtllm-serve, openai_protocol.py: `extra="forbid"`; `suffix` is a 400, and
    # `parallel_tool_calls: false` is accepted without being enforced. Errors as `object: error`.
    name="tensorrt-llm",
    features=BASIC
    | {F.COMPLETION, F.TOKEN_PROMPT, F.N, F.LOGPROBS, F.LOGIT_BIAS, F.TOP_K, F.MIN_P}
    | {F.SEED, F.PENALTIES, F.REPEAT_PENALTY, F.IGNORE_EOS, F.MIN_TOKENS},
    renames=REPETITION,
    others=Others.REFUSED,
    known=frozenset(
        "user reasoning_effort thinking thinking_token_budget prompt_ignore_length best_of "
        "use_beam_search top_p_min length_penalty early_stopping stop_token_ids "
        "include_stop_str_in_output skip_special_tokens spaces_between_special_tokens "
        "truncate_prompt_tokens lora_request add_generation_prompt add_special_tokens documents "
        "chat_template chat_template_kwargs cache_salt priority mm_processor_kwargs "
        "media_io_kwargs".split()
    ),
    ignores=frozenset({"parallel_tool_calls"}),
    reasoning=Reasoning.CONTENT,
    self_hosted=True,
    health_path="/health",
    versioned=True,
)

TGI = Profile(
    # † text-generation-inference, "Messages API" and its OpenAPI: `n` and `logit_bias` are marked
    # unused, presence_penalty becomes a repetition penalty: neither penalty is promised. `suffix`
    # depends on the model. Unknown members are dropped. Errors as {"error": text, "error_type"}.
    name="tgi",
    features=BASIC | {F.COMPLETION, F.LOGPROBS, F.SEED},
    renames=OLD_LIMIT,
    others=Others.IGNORED,
    known=frozenset({"tool_prompt", "guideline"}),
    self_hosted=True,
    health_path="/health",
    versioned=True,
)

OLLAMA = Profile(
    # "OpenAI compatibility": the request fields listed there; the others are dropped. It cuts a
    # prompt that is longer than its own num_ctx: `context` in the config must not exceed that.
    # `suffix` works where the model's template has a place for it (`extra_features: [fim]`).
    name="ollama",
    features=BASIC | {F.COMPLETION, F.LOGPROBS, F.SEED, F.PENALTIES},
    renames=OLD_LIMIT,
    others=Others.IGNORED,
    known=frozenset({"reasoning_effort", "reasoning"}),
    reasoning=Reasoning.FIELD,
    self_hosted=True,
    health_path="/api/version",
    versioned=True,
    embeddings=EMBEDS,
)

LMSTUDIO = Profile(
    # LM Studio, "Chat Completions": supported payload parameters; "Tool Use", "Structured Output".
    # † it drops the others; `reasoning_content`.
    name="lmstudio",
    features=BASIC | {F.COMPLETION, F.TOP_K, F.SEED, F.PENALTIES, F.LOGIT_BIAS, F.REPEAT_PENALTY},
    renames=OLD_LIMIT,
    others=Others.IGNORED,
    known=frozenset({"ttl", "draft_model", "reasoning_effort"}),
    reasoning=Reasoning.CONTENT,
    self_hosted=True,
    health_path="/v1/models",
    versioned=True,
    embeddings=EMBEDS,
)

LLAMA_SERVER = Profile(
    # † llama.cpp, tools/server README. A last message of the assistant's is continued unless
    # --no-prefill-assistant; versions differ in whether they say it again. Unknown members are
    # dropped.
    name="llama-server",
    features=BASIC
    | {F.COMPLETION, F.TOKEN_PROMPT, F.LOGPROBS, F.LOGIT_BIAS, F.TOP_K, F.MIN_P, F.SEED}
    | {F.PENALTIES, F.GRAMMAR, F.TYPICAL_P, F.REPEAT_PENALTY, F.DRY, F.IGNORE_EOS},
    renames=OLD_LIMIT,
    others=Others.IGNORED,
    known=frozenset(
        "repeat_last_n dynatemp_range dynatemp_exponent xtc_probability xtc_threshold top_n_sigma "
        "mirostat mirostat_tau mirostat_eta dry_sequence_breakers samplers n_predict n_probs "
        "min_keep n_keep n_indent n_discard n_cmpl cache_prompt id_slot t_max_predict_ms "
        "json_schema lora response_fields return_tokens return_progress timings_per_token "
        "post_sampling_probs parse_tool_calls parallel_tool_calls reasoning_format "
        "thinking_forced_open add_generation_prompt chat_template_kwargs".split()
    ),
    reasoning=Reasoning.CONTENT,
    continuation=Continuation.TRAILING,
    repeats_prefix=True,
    self_hosted=True,
    health_path="/health",
    versioned=True,
    embeddings=EMBEDS,
)

COMPANION = Profile(
    name="companion",
    # Until it has said itself what it can do, in /v1/models.
    features=frozenset({F.CHAT, F.COMPLETION, F.TOP_K, F.MIN_P, F.SEED, F.PENALTIES}),
    self_hosted=True,
    health_path="/readyz",
    versioned=True,
    base64=True,
    surface=Surface.COMPANION,
)

GENERIC = Profile(
    name="generic",
    # llama.cpp's own fields go through, GBNF too: of such servers many are llama.cpp's.
    features=BASIC
    | {F.COMPLETION, F.SEED, F.PENALTIES, F.GRAMMAR}
    | {F.TYPICAL_P, F.REPEAT_PENALTY, F.DRY, F.IGNORE_EOS, F.MIN_TOKENS},
    # Several small servers ignore the newer name in silence, and write without end.
    renames=OLD_LIMIT,
    self_hosted=True,
    embeddings=EMBEDS,
)

SERVERS = (
    VLLM,
    SGLANG,
    TENSORRT_LLM,
    TGI,
    OLLAMA,
    LMSTUDIO,
    LLAMA_SERVER,
    COMPANION,
    GENERIC,
)
