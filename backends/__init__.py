"""What generates text: one Backend per kind of upstream, found by name, loaded on demand."""

BACKENDS = {
    "llama_cpp": "backends.engine.backend:LlamaCppBackend",
    "openai": "backends.openai:OpenAIBackend",
    "groq": "backends.openai:OpenAIBackend",
    "vllm": "backends.openai:OpenAIBackend",
    "companion": "backends.openai:OpenAIBackend",
    "race": "backends.race:RaceBackend",
    "speculative": "backends.speculative.backend:SpeculativeBackend",
}
"""kind → class. The kind is told to the class, which picks its profile by it."""
