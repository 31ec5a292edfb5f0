"""64 prompts of our own: every artifact has their scores, and a loader checks that it agrees."""

from __future__ import annotations

_TASKS = (
    "Write a function in Python that {}.",
    "Explain to a ten-year-old how {}.",
    "What is the name for a machine that {}?",
    "Prove or refute: there is an algorithm that {}.",
)
_THINGS = (
    "sorts a list of 12 numbers",
    "counts the words in a text",
    "turns heat into electricity",
    "finds the shortest way between two towns",
    "folds a letter in three",
    "tells a cat from a dog",
    "keeps water from freezing at -5 degrees",
    "adds 17.5% tax to a price of $240",
    "plays noughts and crosses without ever losing",
    "measures how fast a river flows",
    "reads a date like 2026-11-23",
    "wakes you when it rains",
)
_OTHERS = (
    "Hi!",
    "thanks, and now the same in German please",
    "Übersetze: Der Zug um 7.45 Uhr fällt heute aus.",
    "今日の天気はどうですか？",
    "x" * 3000,
    "A baker sells 24 rolls an hour for 6 hours, then half as many for 2. How many are sold?",
    "Which of these is a prime?\nA. 21\nB. 27\nC. 31\nD. 33",
    "def f(x):\n    return x ** 2 + 1\n\nWhat does f(3) return?",
    "Let $p$ be prime and $n > 1$. Show that $p^n - 1$ is never a square when $p \\equiv 3$.",
    "A patient, 54 years old, has had chest pain for two days. What should be asked first?",
    "The tenant left in May; the landlord sued in June. Who is liable?\n(A) Both\n(B) Neither",
    '{"task": "extract", "fields": ["name", "city"], "text": "Ann moved to Oslo in 2019."}',
    "?",
    "SELECT name FROM people WHERE age > 30; -- why is this slow?",
    "Summarise in one sentence: " + "The committee met again and decided nothing new. " * 30,
    "0.1 + 0.2 == 0.3",
)
GOLDEN = tuple(task.format(thing) for task in _TASKS for thing in _THINGS) + _OTHERS
