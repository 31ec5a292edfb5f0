"""What generates text: one Backend per kind of upstream, found by name, loaded on demand."""

BACKENDS = {
    "llama_cpp": "backends.engine.backend:LlamaCppBackend",
    "openai": "backends.openai:OpenAIBackend",
    "groq": "backends.openai:OpenAIBackend",
    "cerebras": "backends.openai:OpenAIBackend",
    "openrouter": "backends.openai:OpenAIBackend",
    "together": "backends.openai:OpenAIBackend",
    "fireworks": "backends.openai:OpenAIBackend",
    "perplexity": "backends.openai:OpenAIBackend",
    "mistral": "backends.openai:OpenAIBackend",
    "deepseek": "backends.openai:OpenAIBackend",
    "vllm": "backends.openai:OpenAIBackend",
    "sglang": "backends.openai:OpenAIBackend",
    "tensorrt-llm": "backends.openai:OpenAIBackend",
    "tgi": "backends.openai:OpenAIBackend",
    "ollama": "backends.openai:OpenAIBackend",
    "lmstudio": "backends.openai:OpenAIBackend",
    "llama-server": "backends.openai:OpenAIBackend",
    "companion": "backends.openai:OpenAIBackend",
    "cascade": "backends.cascade:CascadeBackend",
    "continuation": "backends.continuation:ContinuationBackend",
    "race": "backends.race:RaceBackend",
    "review": "backends.review:ReviewBackend",
    "speculative": "backends.speculative.backend:SpeculativeBackend",
}
"""kind → class. The kind is told to the class, which picks its profile by it."""
