"""Client wires: path → dialect, loaded on demand."""

DIALECTS = {
    "/v1/chat/completions": "gateway.dialects.openai_chat:OpenAIChat",
    "/v1/completions": "gateway.dialects.openai_completions:OpenAICompletions",
    "/infill": "gateway.dialects.llama_server:Infill",
}
