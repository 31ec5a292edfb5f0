"""Functionary 3.1 and its kin: `<function=NAME>{arguments}</function>`."""

from __future__ import annotations

from backends.engine.tools.base import Family

FUNCTIONARY = Family(
    name="functionary",
    marker="<function=",
    before="<function=",
    middle=">",
    after="</function>",
    between="\n",
)
