"""What the router reads of a request: a bounded view of its last user turn, in words."""

from __future__ import annotations

import re

from gateway.core.chat import ChatRequest, Endpoint

HEAD, TAIL = 1500, 1000
"""Characters read from both ends of a long text: cost is bounded, the question is in either."""

MOST_WORDS = 400

WORD = re.compile(r"[a-z]+|[0-9]+|[^\x00-\x7f]+", re.ASCII)
"""A word of a lower-cased text; digits apart from letters, as in the word-piece vocabulary."""

SCORED = frozenset({Endpoint.CHAT, Endpoint.COMPLETION})


def view(request: ChatRequest) -> str | None:
    """The text to score; None where there is none: token ids, embeddings, a hole to fill."""
    if request.endpoint not in SCORED or request.suffix is not None:
        return None
    text: str | tuple[int, ...] = request.prompt
    for message in reversed(request.messages):
        if message.role == "user":
            text = message.text
            break
    if not isinstance(text, str) or not text or text.isspace():
        return None
    return clip(text)


_QUOTED = re.compile(r"^> ?", re.MULTILINE)


def clip(text: str) -> str:
    """The two ends of a long text, without the marks of one that is quoted."""
    if text.startswith(">"):
        # 24 of 100 decisions at a 30 % share changed with these marks alone.
        text = _QUOTED.sub("", text)
    return text if len(text) <= HEAD + TAIL else text[:HEAD] + "\n" + text[-TAIL:]


def words(text: str) -> list[str]:
    """The words of a text in its order, at most `MOST_WORDS`."""
    return WORD.findall(text.lower())[:MOST_WORDS]
