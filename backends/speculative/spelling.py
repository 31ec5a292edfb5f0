"""A vocabulary's text and tokens as the edge needs them, each token asked for once."""

from __future__ import annotations

from collections.abc import Sequence

from backends.speculative.seams import Tokenizer


class Spelling:
    """Pieces stay known for as long as the model does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}

    async def of(self, tokens: Sequence[int]) -> list[bytes]:
        """The tokens' bytes, b"" for control tokens. Raises a TandemError."""
        if unknown := sorted({token for token in tokens if token not in self._known}):
            pieces = await self._tokenizer.pieces(unknown)
            self._known.update(zip(unknown, pieces, strict=True))
        return [self._known[token] for token in tokens]

    async def cut(self, text: bytes) -> tuple[tuple[int, ...], list[bytes]]:
        """A text's tokens, and theirs, none of them a control token. Raises a TandemError."""
        tokens = await self._tokenizer.plain(text.decode(), "draft")
        return tokens, await self.of(tokens)
