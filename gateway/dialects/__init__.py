"""Client wires: path → dialect, loaded on demand."""

DIALECTS = {
    "/v1/chat/completions": "gateway.dialects.openai_chat:OpenAIChat",
    "/v1/completions": "gateway.dialects.openai_completions:OpenAICompletions",
    "/v1/embeddings": "gateway.dialects.openai_embeddings:OpenAIEmbeddings",
    "/infill": "gateway.dialects.llama_server:Infill",
}
