"""Weights and tokenizer into GGUF files of type Q8_0."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType, TokenType
from tokenizers import Tokenizer

from backends.engine.demo_pair import chat
from backends.engine.demo_pair.model import Llama
from backends.engine.demo_pair.tokenizer import (
    CONTROL,
    END,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    VISIBLE,
)

LICENCE = "Apache-2.0"
DESCRIPTION = (
    "A {role} model of {size} parameters that demonstrates Tandem on a machine without any other "
    "model. It was trained on templates and on the Python standard library. It knows very little "
    "and is often wrong: for tests and demonstrations only."
)


def write(model: Llama, tokenizer: Tokenizer, path: Path, *, role: str, context: int) -> None:
    """Writes one file; `context` is the length it was trained at, not a wish."""
    writer = gguf.GGUFWriter(path, "llama")
    shape = model.shape
    weights = sum(p.numel() for p in model.parameters())
    writer.add_name(f"tandem-demo-{role}")
    writer.add_description(DESCRIPTION.format(role=role, size=f"{weights / 1e6:.1f} million"))
    writer.add_license(LICENCE)
    writer.add_languages(["en"])
    writer.add_size_label(f"{weights / 1e6:.1f}M")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    _add_vocabulary(writer, tokenizer)
    for name, tensor in model.state_dict().items():
        _add_tensor(writer, name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray) -> None:
    if values.ndim == 1:  # norms stay in full precision, as llama.cpp keeps them
        writer.add_tensor(name, values)
        return
    quantized = gguf.quants.quantize(values, GGMLQuantizationType.Q8_0)
    writer.add_tensor(name, quantized, raw_dtype=GGMLQuantizationType.Q8_0)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    types = [
        TokenType.CONTROL
        if token in CONTROL
        else TokenType.USER_DEFINED  # one token, and still shown in the text
        if token in VISIBLE
        else TokenType.NORMAL
        for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    number = tokenizer.token_to_id
    writer.add_bos_token_id(number(END))
    writer.add_eos_token_id(number(END))
    writer.add_eot_token_id(number("<|im_end|>"))
    writer.add_pad_token_id(number("<|fim_pad|>"))
    writer.add_add_bos_token(False)
    for key, token in (
        ("fim_pre", FIM_PREFIX),
        ("fim_suf", FIM_SUFFIX),
        ("fim_mid", FIM_MIDDLE),
        ("fim_pad", "<|fim_pad|>"),
        ("fim_rep", "<|repo_name|>"),
        ("fim_sep", "<|file_sep|>"),
    ):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", number(token))
    writer.add_chat_template(chat.template_text())
