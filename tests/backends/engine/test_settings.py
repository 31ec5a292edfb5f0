"""What follows from an engine's settings: how cells are divided, which attention is used."""

from __future__ import annotations

import pytest

from backends.engine.settings import EngineSettings


@pytest.mark.parametrize(
    ("changes", "parts", "pool", "sequences"),
    [
        ({}, True, 4 * 512, 4),
        ({"cells": 4 * 300}, True, 4 * 512, 4),
        ({"cells": 1000}, False, 1000, 4 + 16),
        ({"cells": 5000}, False, 5000, 4 + 16),
        ({"cells": 100}, False, 512, 4 + 16),
        ({"cells": 1000, "strict": True}, True, 4 * 512, 4),
    ],
)
def test_cells_are_shared_only_where_they_are_not_a_context_each(
    changes: dict[str, int], parts: bool, pool: int, sequences: int
) -> None:
    """A whole context for each slot, and each slot has its own; fewer or more, and all share."""
    settings = EngineSettings(model="m", context=300, slots=4, **changes)  # type: ignore[arg-type]
    assert (settings.parts, settings.pool, settings.sequences) == (parts, pool, sequences)


@pytest.mark.parametrize(
    ("changes", "head", "used"),
    [
        ({}, 64, True),
        ({}, 8, False),
        ({}, 0, True),
        ({"strict": True}, 8, True),
        ({"kv": "q8_0"}, 8, True),
        ({"flash_attention": True}, 8, True),
        ({"flash_attention": False}, 64, False),
    ],
)
def test_flash_attention_is_used_where_it_pays(
    changes: dict[str, bool], head: int, used: bool
) -> None:
    """Not for tiny heads, unless exactness or quantized cells need it; a setting decides."""
    assert EngineSettings(model="m", **changes).flash(head) is used  # type: ignore[arg-type]
