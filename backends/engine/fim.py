"""The fill-in-the-middle prompt, in tokens: other files first, then prefix, suffix, middle.

    [REPO]project\\n  ([SEP]name\\n text)*  [SEP]name\\n  [PRE] prefix [SUF] suffix [MID]

llama-server's layout and its rule for what does not fit (clients.md, "/infill on the server side"):
around the hole, three quarters of a batch for the end of the prefix, one quarter for the beginning
of the suffix; what the context still holds goes to the last of the other files. It is the only
prompt that Tandem ever shortens, and it says by how much (DESIGN 2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

PROJECT = "myproject"
TEXT_SEPARATOR = "\n\n--- snippet ---\n\n"
"""Between files, for vocabularies without a token for it."""


class FimIds(Protocol):
    @property
    def prefix(self) -> int: ...
    @property
    def suffix(self) -> int: ...
    @property
    def middle(self) -> int: ...
    @property
    def repo(self) -> int: ...
    @property
    def separator(self) -> int: ...


def fim_prompt(
    ids: FimIds,
    bos: int,
    tokenize: Callable[[str], list[int]],
    *,
    prefix: str,
    suffix: str,
    snippets: list[tuple[str, str]],
    room: int,
    batch: int,
) -> tuple[list[int], int]:
    """The prompt, at most `room` tokens, and how many tokens of text were left out.

    `snippets` are (filename, text). `bos` is -1 for vocabularies that begin without one.
    """
    head = tokenize(prefix)
    tail = tokenize(suffix)
    marks = 3 + (bos >= 0)
    hole = len(head) + len(tail)
    if hole + marks > room:
        # Only as much around the hole as one batch takes, or the room if that is less.
        size = max(0, min(batch, room) - marks)
        kept_tail = min(len(tail), max(size // 4, size - len(head)))
        kept_head = min(len(head), size - kept_tail)
        head, tail = head[len(head) - kept_head :], tail[:kept_tail]
    cut = hole - len(head) - len(tail)
    core = [ids.prefix, *head, ids.suffix, *tail, ids.middle]
    extra = _files(ids, tokenize, snippets)
    left = max(0, room - len(core) - (bos >= 0))
    if len(extra) > left:
        cut += len(extra) - left
        extra = extra[len(extra) - left :]
    return [*([bos] if bos >= 0 else []), *extra, *core], cut


def _files(
    ids: FimIds, tokenize: Callable[[str], list[int]], snippets: list[tuple[str, str]]
) -> list[int]:
    if not snippets:
        return []
    tokens = [ids.repo, *tokenize(f"{PROJECT}\n")] if ids.repo >= 0 else []
    for name, text in snippets:
        if ids.separator >= 0:
            tokens += [ids.separator, *tokenize(f"{name or 'tmp'}\n")]
        else:
            tokens += tokenize(TEXT_SEPARATOR)
        tokens += tokenize(text)
    if ids.separator >= 0:
        tokens += [ids.separator, *tokenize("filename\n")]
    return tokens
