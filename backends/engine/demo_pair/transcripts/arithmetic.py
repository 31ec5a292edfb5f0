"""Small sums, counting, comparing and sorting: what a model this size can learn by heart."""

from __future__ import annotations

from random import Random

from backends.engine.demo_pair.transcripts.words import NUMBER_WORDS

Pair = tuple[str, str]


def arithmetic(rng: Random) -> Pair:
    operation = rng.choice("++--**")
    if operation == "*":
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        word, result = "times", a * b
    elif operation == "+":
        a, b = rng.randint(0, 12), rng.randint(0, 12)
        word, result = "plus", a + b
    else:
        a, b = sorted((rng.randint(0, 12), rng.randint(0, 12)), reverse=True)
        word, result = "minus", a - b
    ask = rng.choice(
        (
            "What is {a} {o} {b}?",
            "what is {a}{o}{b}?",
            "{a} {o} {b}",
            "{a} {o} {b} = ?",
            "What is {a} {w} {b}?",
            "Calculate {a} {o} {b}.",
            "How much is {a} {w} {b}?",
            "Compute {a} {o} {b}",
            "What's {a} {o} {b}?",
            "Can you tell me what {a} {o} {b} is?",
            "Please add it up: {a} {o} {b}" if operation == "+" else "Work out {a} {o} {b}.",
        )
    )
    return ask.format(a=a, b=b, o=operation, w=word), f"{a} {operation} {b} = {result}."


def count(rng: Random) -> Pair:
    start = rng.choice((1, 1, 1, rng.randint(0, 20)))
    length = rng.randint(3, 20)
    numbers = list(range(start, start + length))
    ask = "Count from {a} to {b}."
    if start > 1 and rng.random() < 0.3:
        numbers.reverse()
        ask = "Count down from {a} to {b}."
    elif start == 1 and rng.random() < 0.3:
        ask = rng.choice(
            ("Count to {b}.", "count to {b}", "Please count to {b}.", "Can you count to {b}?")
        )
    text = ask.format(a=numbers[0], b=numbers[-1])
    return text, ", ".join(map(str, numbers)) + "."


def compare(rng: Random) -> Pair:
    a, b = rng.sample(range(100), 2)
    if rng.random() < 0.5:
        ask = rng.choice(("Which is larger, {a} or {b}?", "What is bigger: {a} or {b}?"))
        return ask.format(a=a, b=b), f"{max(a, b)} is larger than {min(a, b)}."
    ask = rng.choice(("Which is smaller, {a} or {b}?", "What is less: {a} or {b}?"))
    return ask.format(a=a, b=b), f"{min(a, b)} is smaller than {max(a, b)}."


def parity(rng: Random) -> Pair:
    n = rng.randint(0, 100)
    ask = rng.choice(
        ("Is {n} even or odd?", "Is {n} even?", "Is {n} odd?", "is the number {n} even?")
    )
    return ask.format(n=n), f"{n} is {'odd' if n % 2 else 'even'}."


def order(rng: Random) -> Pair:
    numbers = rng.sample(range(1, 30), rng.randint(3, 5))
    shown = ", ".join(map(str, numbers))
    ask = rng.choice(("Sort these numbers: {x}", "Sort {x}.", "Put these numbers in order: {x}."))
    return ask.format(x=shown), ", ".join(map(str, sorted(numbers)))


def spelled(rng: Random) -> Pair:
    n = rng.randint(0, 20)
    if rng.random() < 0.5:
        return f"Write the number {n} as a word.", f"{NUMBER_WORDS[n]}"
    return f"Write {NUMBER_WORDS[n]} as a number.", f"{n}"
