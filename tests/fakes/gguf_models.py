"""Whole GGUF models with random weights, one shape for each way that llama.cpp keeps its state.

Small enough to make in a second, wide enough that buffers are counted in MiB. Weights are F16
(norms and states F32), drawn from a seed; what such a model says is noise.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.fakes.gguf import CONTROL, NORMAL, SPECIALS, byte_characters

F32, F16 = 0, 1
ALIGNMENT = 32
ADDED = frozenset({"token_types.weight", "position_embd.weight"})
"""Rows that are added, not multiplied with: llama.cpp takes no F16 there."""

Meta = dict[str, str | int | float | bool | list[str] | list[int]]
Tensors = dict[str, tuple[int, ...]]


def write_model(path: Path, name: str, *, meta: Mapping[str, object] | None = None) -> Path:
    """Write the model `name` (of MODELS or ENCODERS) to `path`; `meta` overrides its metadata."""
    own, tensors = (MODELS | ENCODERS)[name]()
    write(path, {**own, **(meta or {})}, tensors)  # type: ignore[dict-item]
    return path


def write(path: Path, meta: Meta, tensors: Tensors, *, seed: int = 7) -> None:
    """A GGUF file of version 3. Shapes are as ggml has them: the row length first."""
    random = np.random.default_rng(seed)
    infos, blobs, offset = b"", [], 0
    for name, shape in tensors.items():
        matrix = len(shape) > 1 and name.endswith(".weight")
        kind = F16 if matrix and "conv" not in name and name not in ADDED else F32
        if name.endswith("norm.weight") or ".ssm_d" in name:
            values = np.ones(math.prod(shape), np.float32)
        else:
            values = (random.standard_normal(math.prod(shape)) * 0.02).astype(np.float32)
        blob = values.astype(np.float16 if kind == F16 else np.float32).tobytes()
        blob += bytes(-len(blob) % ALIGNMENT)
        infos += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        blobs.append(blob)
        offset += len(blob)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(meta))
    head += b"".join(text(key) + value(each) for key, each in meta.items()) + infos
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + b"".join(blobs))


def text(raw: str) -> bytes:
    return struct.pack("<Q", len(raw.encode())) + raw.encode()


def value(given: object) -> bytes:
    match given:
        case bool():
            return struct.pack("<I?", 7, given)
        case int():
            return struct.pack("<II", 4, given)
        case float():
            return struct.pack("<If", 6, given)
        case str():
            return struct.pack("<I", 8) + text(given)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(given)) + b"".join(text(each) for each in given)
        case [*numbers]:
            head = struct.pack("<IIQ", 9, 5, len(numbers))
            return head + struct.pack(f"<{len(numbers)}i", *numbers)
    raise TypeError(type(given))


def vocabulary(architecture: str, size: int) -> Meta:
    tokens = [*SPECIALS, *byte_characters()]
    tokens += [f"tok{i}" for i in range(size - len(tokens))]
    types = [CONTROL] * len(SPECIALS) + [NORMAL] * (size - len(SPECIALS))
    return {
        "general.architecture": architecture,
        "general.file_type": 1,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }


def attention_model(
    architecture: str,
    *,
    layers: int = 4,
    width: int = 256,
    heads: int = 8,
    kv_heads: int = 2,
    head: int = 32,
    ff: int = 704,
    vocab: int = 4096,
    context: int = 8192,
    window: int = 0,
    norms: tuple[str, ...] = ("attn_norm", "ffn_norm"),
    head_norms: bool = False,
    biases: bool = False,
    tied: bool = True,
    more: Mapping[str, object] | None = None,
) -> tuple[Meta, Tensors]:
    a = architecture
    meta: Meta = vocabulary(a, vocab) | {
        f"{a}.context_length": context,
        f"{a}.embedding_length": width,
        f"{a}.block_count": layers,
        f"{a}.feed_forward_length": ff,
        f"{a}.attention.head_count": heads,
        f"{a}.attention.head_count_kv": kv_heads,
        f"{a}.attention.key_length": head,
        f"{a}.attention.value_length": head,
        f"{a}.rope.dimension_count": head,
        f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
    }
    if window:
        meta[f"{a}.attention.sliding_window"] = window
    meta |= more or {}  # type: ignore[arg-type]
    tensors: Tensors = {"token_embd.weight": (width, vocab), "output_norm.weight": (width,)}
    if not tied:
        tensors["output.weight"] = (width, vocab)
    for i in range(layers):
        block = f"blk.{i}."
        tensors |= {f"{block}{norm}.weight": (width,) for norm in norms}
        outs = {"attn_q": heads * head, "attn_k": kv_heads * head, "attn_v": kv_heads * head}
        tensors |= {f"{block}{name}.weight": (width, out) for name, out in outs.items()}
        if biases:
            tensors |= {f"{block}{name}.bias": (out,) for name, out in outs.items()}
        if head_norms:
            tensors |= {f"{block}attn_{each}_norm.weight": (head,) for each in "qk"}
        tensors[f"{block}attn_output.weight"] = (heads * head, width)
        tensors |= feed_forward(block, width, ff)
    return meta, tensors


def feed_forward(block: str, width: int, ff: int) -> Tensors:
    return {
        f"{block}ffn_gate.weight": (width, ff),
        f"{block}ffn_up.weight": (width, ff),
        f"{block}ffn_down.weight": (ff, width),
    }


def gemma(architecture: str, *, layers: int, head_norms: bool) -> tuple[Meta, Tensors]:
    return attention_model(
        architecture,
        layers=layers,
        heads=4,
        window=512,
        norms=("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
        head_norms=head_norms,
    )


def mamba_block(block: str, width: int, inner: int, state: int, conv: int, rank: int) -> Tensors:
    return {
        f"{block}ssm_in.weight": (width, 2 * inner),
        f"{block}ssm_conv1d.weight": (conv, inner),
        f"{block}ssm_conv1d.bias": (inner,),
        f"{block}ssm_x.weight": (inner, rank + 2 * state),
        f"{block}ssm_dt.weight": (rank, inner),
        f"{block}ssm_dt.bias": (inner,),
        f"{block}ssm_a": (state, inner),
        f"{block}ssm_d": (inner,),
        f"{block}ssm_out.weight": (inner, width),
    }


def mamba() -> tuple[Meta, Tensors]:
    layers, width, vocab = 4, 256, 4096
    inner, state, conv, rank = 512, 16, 4, 16
    meta: Meta = vocabulary("mamba", vocab) | {
        "mamba.context_length": 8192,
        "mamba.embedding_length": width,
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.block_count": layers,
        "mamba.ssm.conv_kernel": conv,
        "mamba.ssm.inner_size": inner,
        "mamba.ssm.state_size": state,
        "mamba.ssm.time_step_rank": rank,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
    }
    tensors: Tensors = {"token_embd.weight": (width, vocab), "output_norm.weight": (width,)}
    for i in range(layers):
        tensors[f"blk.{i}.attn_norm.weight"] = (width,)
        tensors |= mamba_block(f"blk.{i}.", width, inner, state, conv, rank)
    return meta, tensors


def jamba() -> tuple[Meta, Tensors]:
    """Every other layer has attention, the rest are recurrent."""
    layers, width, vocab, heads, head, ff = 4, 256, 4096, 8, 32, 704
    inner, state, conv, rank = 512, 16, 4, 16
    kv_heads = [0, 2, 0, 2]
    meta: Meta = vocabulary("jamba", vocab) | {
        "jamba.context_length": 8192,
        "jamba.embedding_length": width,
        "jamba.feed_forward_length": ff,
        "jamba.block_count": layers,
        "jamba.attention.head_count": heads,
        "jamba.attention.head_count_kv": kv_heads,
        "jamba.ssm.conv_kernel": conv,
        "jamba.ssm.inner_size": inner,
        "jamba.ssm.state_size": state,
        "jamba.ssm.time_step_rank": rank,
        "jamba.attention.layer_norm_rms_epsilon": 1e-5,
    }
    tensors: Tensors = {"token_embd.weight": (width, vocab), "output_norm.weight": (width,)}
    for i, own in enumerate(kv_heads):
        block = f"blk.{i}."
        tensors |= {f"{block}attn_norm.weight": (width,), f"{block}ffn_norm.weight": (width,)}
        if own:
            tensors |= {
                f"{block}attn_q.weight": (width, heads * head),
                f"{block}attn_k.weight": (width, own * head),
                f"{block}attn_v.weight": (width, own * head),
                f"{block}attn_output.weight": (heads * head, width),
            }
        else:
            tensors |= mamba_block(block, width, inner, state, conv, rank)
            tensors |= {
                f"{block}ssm_dt_norm.weight": (rank,),
                f"{block}ssm_b_norm.weight": (state,),
                f"{block}ssm_c_norm.weight": (state,),
            }
        tensors |= feed_forward(block, width, ff)
    return meta, tensors


def deepseek() -> tuple[Meta, Tensors]:
    """MLA: one compressed row for key and value of all heads."""
    layers, width, vocab, heads, ff = 4, 256, 4096, 8, 704
    lora, rope, nope, v_head = 64, 32, 32, 32
    a = "deepseek2"
    meta: Meta = vocabulary(a, vocab) | {
        f"{a}.context_length": 8192,
        f"{a}.embedding_length": width,
        f"{a}.block_count": layers,
        f"{a}.feed_forward_length": ff,
        f"{a}.attention.head_count": heads,
        f"{a}.attention.head_count_kv": 1,
        f"{a}.attention.kv_lora_rank": lora,
        f"{a}.attention.key_length": lora + rope,
        f"{a}.attention.value_length": lora,
        f"{a}.attention.key_length_mla": nope + rope,
        f"{a}.attention.value_length_mla": v_head,
        f"{a}.rope.dimension_count": rope,
        f"{a}.leading_dense_block_count": layers,
        f"{a}.expert_feed_forward_length": 128,
        f"{a}.expert_count": 2,
        f"{a}.expert_used_count": 1,
        f"{a}.expert_shared_count": 1,
        f"{a}.expert_weights_scale": 1.0,
        f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{a}.attention.q_lora_rank": 96,
    }
    tensors: Tensors = {
        "token_embd.weight": (width, vocab),
        "output_norm.weight": (width,),
        "output.weight": (width, vocab),
    }
    for i in range(layers):
        block = f"blk.{i}."
        tensors |= {
            f"{block}attn_norm.weight": (width,),
            f"{block}attn_q_a.weight": (width, 96),
            f"{block}attn_q_a_norm.weight": (96,),
            f"{block}attn_q_b.weight": (96, heads * (nope + rope)),
            f"{block}attn_kv_a_mqa.weight": (width, lora + rope),
            f"{block}attn_kv_a_norm.weight": (lora,),
            f"{block}attn_k_b.weight": (nope, lora, heads),
            f"{block}attn_v_b.weight": (lora, v_head, heads),
            f"{block}attn_output.weight": (heads * v_head, width),
            f"{block}ffn_norm.weight": (width,),
        }
        tensors |= feed_forward(block, width, ff)
    return meta, tensors


WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] hello world the a of quick brown fox ##s ##ing".split()


def bert() -> tuple[Meta, Tensors]:
    """An encoder: no KV cells, every token sees every other, word pieces, mean pooling."""
    layers, width, heads, ff, context = 2, 64, 4, 128, 128
    # llama.cpp's files mark the beginning of a word, not its middle as BERT's own do.
    pieces = [w if w[0] == "[" else w[2:] if w[:2] == "##" else "\u2581" + w for w in WORDS]
    pieces += [f"\u2581{chr(c)}" for c in range(33, 127)] + [chr(c) for c in range(97, 123)]
    pieces = list(dict.fromkeys(pieces))
    meta: Meta = {
        "general.architecture": "bert",
        "general.file_type": 1,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [CONTROL] * 5 + [NORMAL] * (len(pieces) - 5),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
        "bert.context_length": context,
        "bert.embedding_length": width,
        "bert.block_count": layers,
        "bert.feed_forward_length": ff,
        "bert.attention.head_count": heads,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
    }
    tensors: Tensors = {
        "token_embd.weight": (width, len(pieces)),
        "token_types.weight": (width, 2),
        "position_embd.weight": (width, context),
        "token_embd_norm.weight": (width,),
        "token_embd_norm.bias": (width,),
    }
    outs = {"attn_q": width, "attn_k": width, "attn_v": width, "attn_output": width}
    for i in range(layers):
        block = f"blk.{i}."
        for name, out in outs.items():
            tensors |= {f"{block}{name}.weight": (width, out), f"{block}{name}.bias": (out,)}
        tensors |= {f"{block}ffn_up.weight": (width, ff), f"{block}ffn_up.bias": (ff,)}
        tensors |= {f"{block}ffn_down.weight": (ff, width), f"{block}ffn_down.bias": (width,)}
        for norm in ("attn_output_norm", "layer_output_norm"):
            tensors |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
    return meta, tensors


MODELS = {
    "llama": lambda: attention_model("llama"),
    "qwen2": lambda: attention_model("qwen2", biases=True),
    "qwen3": lambda: attention_model("qwen3", head_norms=True, vocab=16384, tied=False),
    "gemma2": lambda: gemma("gemma2", layers=4, head_norms=False),
    "gemma3": lambda: gemma("gemma3", layers=6, head_norms=True),
    "mamba": mamba,
    "jamba": jamba,
    "deepseek2": deepseek,
}

ENCODERS = {"bert": bert}
"""Apart: nothing that is true of cells is true of them."""
