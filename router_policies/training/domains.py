"""Which field of knowledge a benchmark's category belongs to: what is left out at a time.

A field is one across all sources: a router that has seen law questions in one benchmark is not new
to law in another.
"""

from __future__ import annotations

from router_policies.training.data import Row

BENCHES = {
    "gsm8k": "word problems", "ulab-gsm8k": "word problems",
    "ulab-agentverse-mgsm": "word problems",
    "math-l5": "maths", "ulab-math": "maths",
    "ulab-mbpp": "computing", "ulab-human_eval": "computing",
    "ulab-natural_qa": "trivia",
    "ulab-arc_challenge": "everyday science", "ulab-openbook_qa": "everyday science",
    "ulab-commonsense_qa": "everyday science",
    "ulab-mmlu": "mixed",
}  # fmt: skip
"""Benches that are of one field; the others are told apart by category."""

CATEGORIES = {
    "maths": "math college_mathematics elementary_mathematics high_school_mathematics "
    "high_school_statistics",
    "physics": "physics astronomy college_physics conceptual_physics electrical_engineering",
    "chemistry": "chemistry college_chemistry high_school_chemistry",
    "biology": "biology college_biology high_school_biology virology",
    "health": "health anatomy clinical_knowledge college_medicine human_aging human_sexuality "
    "nutrition professional_medicine",
    "computing": "computer_science computer_security high_school_computer_science machine_learning",
    "law": "law international_law professional_law",
    "history": "history high_school_european_history high_school_us_history "
    "high_school_world_history prehistory",
    "psychology": "psychology high_school_psychology professional_psychology sociology",
    "business": "business business_ethics high_school_macroeconomics high_school_microeconomics "
    "management public_relations",
    "politics": "high_school_geography high_school_government_and_politics security_studies "
    "global_facts",
    "philosophy": "philosophy logical_fallacies moral_scenarios",
    "mixed": "other miscellaneous",
}
_OF = {category: domain for domain, names in CATEGORIES.items() for category in names.split()}


def domain(row: Row) -> str:
    """The row's field; its bench or category itself where none is listed."""
    if row.bench in BENCHES:
        return BENCHES[row.bench]
    category = row.category.replace(" ", "_")
    return _OF.get(category, category or row.bench or row.source)
