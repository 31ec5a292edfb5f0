"""Questions about code, answered from the function library, and the same functions as source.

A function is parsed, varied (renamed, with or without annotations and docstring) and printed
again, so that one definition yields many consistent examples.
"""

from __future__ import annotations

import ast
import copy
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from backends.engine.demo_pair.transcripts import words

Pair = tuple[str, str]
Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Snippet:
    node: Definition
    summary: str  # the docstring: "Return the sum of two numbers."

    @property
    def task(self) -> str:
        """`return the sum of two numbers`"""
        return self.summary[0].lower() + self.summary[1:].rstrip(".")

    @property
    def does(self) -> str:
        """`returns the sum of two numbers`"""
        verb, _, rest = self.task.partition(" ")
        ending = "es" if verb.endswith(("sh", "ch", "ss")) else "s"
        verb = verb[:-1] + "ie" if verb.endswith("ry") else verb
        return f"{verb}{ending} {rest}"

    @property
    def what(self) -> str:
        return "class" if isinstance(self.node, ast.ClassDef) else "function"


@cache
def snippets() -> tuple[Snippet, ...]:
    folder = Path(__file__).parent.parent / "library"
    found = []
    for path in sorted(folder.glob("[a-z]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                summary = ast.get_docstring(node)
                assert summary, f"{path.name}: {node.name} has no docstring"
                found.append(Snippet(node, summary))
    return tuple(found)


class _Strip(ast.NodeTransformer):
    """Removes annotations: most Python that people type has none."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        for argument in node.args.args:
            argument.annotation = None
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


class _Rename(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = self.names.get(node.arg, node.arg)
        self.generic_visit(node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.name = self.names.get(node.name, node.name)
        self.generic_visit(node)
        return node


# Other names people give the same argument.
_ARGUMENTS = {
    "text": ("s", "string", "value"),
    "numbers": ("values", "nums", "xs"),
    "items": ("values", "lst", "elements"),
    "n": ("number", "num", "x"),
    "a": ("x", "first"),
    "b": ("y", "second"),
}


def source(snippet: Snippet, rng: Random, *, name: str = "", typed: bool, documented: bool) -> str:
    node = copy.deepcopy(snippet.node)
    if not documented:
        node.body = node.body[1:]
    if not typed:
        node = _Strip().visit(node)
    used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    names = {snippet.node.name: name} if name else {}
    if isinstance(node, ast.FunctionDef) and rng.random() < 0.25:
        for argument in node.args.args:
            other = rng.choice(_ARGUMENTS.get(argument.arg, (argument.arg,)))
            if other not in used and other not in names.values():
                names[argument.arg] = other
    text = ast.unparse(ast.fix_missing_locations(_Rename(names).visit(node)))
    # ast prints `a, b = (b, a)`; nobody writes that
    return re.sub(r"^( *[^=(]+, [^=(]+ = )\((.*)\)$", r"\1\2", text, flags=re.MULTILINE)


_ASKS = (
    "Write a {w} that {d}.",
    "Write a Python {w} that {d}.",
    "write a python {w} that {d}",
    "write a {w} that {d}",
    "Write a Python {w} to {t}.",
    "Write a {w} to {t}.",
    "Write a {w} to {t} in Python.",
    "How do I {t} in Python?",
    "How can I {t}?",
    "how to {t} in python",
    "Give me a {w} that {d}.",
    "Show me a {w} that {d}.",
    "Can you write a {w} that {d}?",
    "I need a {w} that {d}.",
    "Implement a {w} that {d}.",
    "Please write Python code to {t}.",
    "Write code to {t}.",
    "Python code to {t}",
    "python {w}: {t}",
    "Create a {w} that {d}.",
)

_NAMED = (
    "Write a {w} called `{n}` that {d}.",
    "Write a {w} {n} that {d}.",
    "Write a Python {w} named {n} that {d}.",
    "Implement `{n}`: it {d}.",
)


def request(rng: Random) -> Pair:
    snippet = rng.choice(snippets())
    name = ""
    ask = rng.choice(_ASKS)
    if rng.random() < 0.25:
        ask = rng.choice(_NAMED)
        name = snippet.node.name
        if snippet.what == "function" and rng.random() < 0.4:
            name = (
                f"{words.made_up(rng)}_{words.made_up(rng)}"
                if rng.random() < 0.5
                else words.made_up(rng)
            )
    ask = ask.format(w=snippet.what, d=snippet.does, t=snippet.task, n=name)
    typed = False
    if rng.random() < 0.1:
        ask, typed = f"{ask} Use type hints.", True
    only = rng.random() < 0.1
    if only:
        ask += rng.choice((" Only code.", " No explanation.", " Answer with code only."))
    code = f"```python\n{source(snippet, rng, name=name, typed=typed, documented=False)}\n```"
    if only:
        return ask, code
    return ask, f"{code}\n\nThis {snippet.what} {snippet.does}."


def explanation(rng: Random) -> Pair:
    snippet = rng.choice(snippets())
    code = source(snippet, rng, typed=False, documented=False)
    ask = rng.choice(
        ("What does this code do?", "Explain this code.", "What does this {w} do?", "Explain:")
    ).format(w=snippet.what)
    text = f"{ask}\n\n```python\n{code}\n```" if rng.random() < 0.7 else f"{ask}\n{code}"
    return text, f"This {snippet.what} {snippet.does}."


def docstring(rng: Random) -> Pair:
    snippet = rng.choice(snippets())
    code = source(snippet, rng, typed=False, documented=False)
    ask = rng.choice(("Add a docstring to this {w}:", "Document this {w}:")).format(w=snippet.what)
    documented = source(snippet, Random(0), typed=False, documented=True)
    if code != source(snippet, Random(0), typed=False, documented=False):
        documented = code.replace(":\n", f':\n    """{snippet.summary}"""\n', 1)
    return f"{ask}\n\n```python\n{code}\n```", f"```python\n{documented}\n```"


def module(rng: Random) -> str:
    """A small source file of library functions: what an editor shows above the cursor."""
    parts = []
    typed = rng.random() < 0.4
    for snippet in rng.sample(snippets(), rng.randint(1, 5)):
        code = source(snippet, rng, typed=typed, documented=rng.random() < 0.7)
        if rng.random() < 0.15:
            code = f"# {snippet.summary}\n{code}"
        parts.append(code)
    return "\n\n\n".join(parts) + "\n"
