"""The body of `POST /v1/feedback`: an answer's id and what its client thinks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.core.errors import InvalidRequest

THUMBS: Mapping[str, float] = {"up": 1.0, "down": 0.0}
FIELDS = ("id", "score", "thumb", "comment")

SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["id"],
                    "oneOf": [{"required": ["score"]}, {"required": ["thumb"]}],
                    "additionalProperties": False,
                    "properties": {
                        "id": {"type": "string", "description": "the answer's x-request-id"},
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "thumb": {"type": "string", "enum": list(THUMBS)},
                        "comment": {"type": "string", "description": "read by nobody, not kept"},
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class Feedback:
    """`score` is 0 to 1."""

    id: str
    score: float


def read_feedback(body: Mapping[str, Any]) -> Feedback:
    """What was said. Raises InvalidRequest that names the field."""
    for name in body:
        if name not in FIELDS:
            raise InvalidRequest(f"Unknown field {name[:64]!r}.", param=name[:64])
    id, score, thumb = body.get("id"), body.get("score"), body.get("thumb")
    if not isinstance(id, str) or not id:
        raise InvalidRequest("The id of an answer is missing.", param="id")
    if (score is None) == (thumb is None):
        raise InvalidRequest(
            "Give either a score from 0 to 1 or a thumb, up or down.", param="score"
        )
    if thumb is not None:
        if not isinstance(thumb, str) or thumb not in THUMBS:
            raise InvalidRequest("A thumb is up or down.", param="thumb")
        return Feedback(id, THUMBS[thumb])
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise InvalidRequest("A score is a number from 0 to 1.", param="score")
    return Feedback(id, float(score))
