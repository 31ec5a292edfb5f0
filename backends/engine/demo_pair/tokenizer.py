"""One byte-level BPE of 4096 tokens for both models."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from backends.engine.demo_pair import chat, transcripts
from backends.engine.demo_pair.corpus import Corpus

END = "<|endoftext|>"
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"

# In id order; control tokens are never part of a text.
CONTROL = (
    END,
    "<|im_start|>",
    "<|im_end|>",
    FIM_PREFIX,
    FIM_SUFFIX,
    FIM_MIDDLE,
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
# Single tokens too, but a reader of the answer must see them.
VISIBLE = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
)

_TRANSCRIPTS = 25_000  # about as much text as half of the code


def build(corpus: Corpus, *, vocab: int, seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # The regular expression of GPT-2, which llama.cpp calls pre-tokenizer "gpt-2".
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(text, special=True) for text in CONTROL]
        + [AddedToken(text, special=False, normalized=False) for text in VISIBLE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = Random(seed)
    texts = [file.text for file in corpus.train]
    for _ in range(_TRANSCRIPTS):
        found = transcripts.conversation(rng)
        texts.append(chat.render(found.messages, found.tools))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))
