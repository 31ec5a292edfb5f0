"""A model of 168 million random weights, for speed: what it says is noise, how fast it is not.

12 layers, width 1024, 16 heads over 4 KV heads, feed-forward 2816, 32,000 tokens, tied embeddings;
quantized by llama.cpp itself. The vocabulary is the bundled pair's, padded, so that prompts are
tokenized as real ones are.
"""

from __future__ import annotations

from itertools import count, islice
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

from backends.engine.offline_client import run

BUNDLED = Path(__file__).resolve().parents[2] / "backends" / "engine" / "bundled"
LAYERS, WIDTH, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY = 12, 1024, 16, 4, 2816, 32_000
CONTEXT = 2048
CONTROL = 3
F16 = 1


def write_quantized(folder: Path, kind: str) -> Path:
    """The model in `folder` as `kind` (Q8_0, Q4_0, …). Some ten seconds."""
    source, target = folder / "random-168m-f16.gguf", folder / f"random-168m-{kind.lower()}.gguf"
    if not source.exists():
        _write(source)
    run("quantize", lambda _: None, source=str(source), target=str(target), type=kind, threads=1)
    return target


def _write(path: Path) -> None:
    random = np.random.default_rng(7)
    writer = GGUFWriter(path, "llama")
    writer.add_file_type(F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    special = _add_vocabulary(writer)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns), np.float32) * 0.02).astype(np.float16)

    embedding = matrix(VOCABULARY, WIDTH)
    # The embedding is also the output: such a token's logit is 0, which is never the largest of
    # 32,000. So no answer ends before its length, and nobody has to be told to ignore that.
    embedding[special] = 0
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    kv = WIDTH // HEADS * KV_HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{name}.weight", np.ones(WIDTH, np.float32))
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", kv, WIDTH),
            ("attn_v", kv, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", FEED_FORWARD, WIDTH),
            ("ffn_up", FEED_FORWARD, WIDTH),
            ("ffn_down", WIDTH, FEED_FORWARD),
        ):
            writer.add_tensor(f"{block}{name}.weight", matrix(rows, columns))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: GGUFWriter) -> list[int]:
    """The bundled vocabulary and padding; the ids that end an answer or are control tokens."""
    fields = GGUFReader(BUNDLED / "tandem-demo-target-q8_0.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    special = [token for token, kind in enumerate(types) if kind == CONTROL]
    more = VOCABULARY - len(tokens)
    # Four letters a token, about what a real vocabulary of this size has; llama.cpp aborts when two
    # tokens are spelled alike.
    known = set(tokens)
    spare = (word for number in count(0x8000) if (word := f"{number:04x}") not in known)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, *islice(spare, more)])
    writer.add_token_types([*types, *[1] * more])
    writer.add_token_merges(fields["tokenizer.ggml.merges"].contents())
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(fields["tokenizer.chat_template"].contents())
    return special
