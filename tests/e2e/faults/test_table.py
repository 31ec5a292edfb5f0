"""The fault table's page and the tests agree: no row without a test, no test without its row."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
PROMISED = {*range(1, 33), *range(38, 43), 45, 47, 48}


def table() -> dict[int, set[str]]:
    """Row → the files that the page names."""
    lines = (Path(__file__).parent / "README.md").read_text().splitlines()
    rows = (re.match(r"\| (\d+) \|.*\| (.*) \|$", line) for line in lines)
    return {int(row[1]): set(row[2].split(", ")) for row in rows if row}


def named() -> dict[int, set[str]]:
    """Row → the files with a test of its number."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            numbers = re.match(r"test_row((?:_\d\d)+)_", node.name)
            for number in numbers[1].split("_")[1:] if numbers else ():
                found[int(number)].add(path.relative_to(TESTS).as_posix())
    return found


def test_every_row_is_proved_where_the_page_says() -> None:
    """Each row's files are those with a test of its number, and each promised row is there."""
    page, tests = table(), named()
    assert set(page) >= PROMISED
    for row, files in page.items():
        assert tests[row] == files, f"row {row}"
