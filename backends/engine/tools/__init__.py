"""Tool-call formats. To add one: a module with its Family, and its line here before GENERIC.

The first whose `fits` says yes to the model's chat template is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from backends.engine.tools.base import Family
from backends.engine.tools.deepseek import DEEPSEEK, DEEPSEEK_V31
from backends.engine.tools.functionary import FUNCTIONARY
from backends.engine.tools.generic import GENERIC
from backends.engine.tools.hermes import HERMES
from backends.engine.tools.llama3 import LLAMA3
from backends.engine.tools.mistral import MISTRAL, MISTRAL_ARGS

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        MISTRAL_ARGS,
        MISTRAL,
        DEEPSEEK,
        DEEPSEEK_V31,
        HERMES,
        FUNCTIONARY,
        LLAMA3,
        GENERIC,
    )
}


def family_of(template: str) -> Family:
    """The format of the model that a chat template belongs to; GENERIC if it takes no tools."""
    if "tools" not in template:
        return GENERIC
    return next(family for family in FAMILIES.values() if family.fits(template))
