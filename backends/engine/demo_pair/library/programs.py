"""Classes and functions that touch files, time or JSON."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any


def read_file(path: str) -> str:
    """Read a text file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def write_file(path: str, text: str) -> None:
    """Write a text to a file."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def append_line(path: str, line: str) -> None:
    """Append a line to a file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def count_lines(path: str) -> int:
    """Count the lines of a file."""
    with open(path, encoding="utf-8") as file:
        return sum(1 for _ in file)


def load_json(path: str) -> Any:
    """Load a JSON file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def save_json(path: str, data: Any) -> None:
    """Save data to a JSON file."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=2)


def roll_dice(sides: int) -> int:
    """Roll a dice with a given number of sides."""
    return random.randint(1, sides)


def random_password(length: int) -> str:
    """Create a random password of a given length."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(random.choice(letters) for _ in range(length))


def measure(function: Callable[[], Any]) -> float:
    """Measure how long a function takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def retry(function: Callable[[], Any], attempts: int) -> Any:
    """Call a function again when it fails."""
    for attempt in range(attempts):
        try:
            return function()
        except Exception:
            if attempt == attempts - 1:
                raise
    return None


def countdown(n: int) -> None:
    """Print a countdown from n to one."""
    while n > 0:
        print(n)
        n -= 1


def print_table(n: int) -> None:
    """Print the multiplication table of a number."""
    for i in range(1, 11):
        print(f"{n} x {i} = {n * i}")


def hello() -> None:
    """Print hello world."""
    print("Hello, world!")


class Counter:
    """Count things."""

    def __init__(self) -> None:
        self.value = 0

    def increment(self) -> None:
        self.value += 1

    def reset(self) -> None:
        self.value = 0


class Stack:
    """Keep items in a stack."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def push(self, item: Any) -> None:
        self.items.append(item)

    def pop(self) -> Any:
        return self.items.pop()

    def is_empty(self) -> bool:
        return not self.items


class Queue:
    """Keep items in a queue."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def put(self, item: Any) -> None:
        self.items.append(item)

    def get(self) -> Any:
        return self.items.pop(0)

    def __len__(self) -> int:
        return len(self.items)


class Point:
    """Represent a point with two coordinates."""

    def __init__(self, x: float, y: float) -> None:
        self.x = x
        self.y = y

    def __repr__(self) -> str:
        return f"Point({self.x}, {self.y})"

    def distance(self, other: Point) -> float:
        return ((self.x - other.x) ** 2 + (self.y - other.y) ** 2) ** 0.5


class Account:
    """Represent a bank account."""

    def __init__(self, owner: str, balance: int = 0) -> None:
        self.owner = owner
        self.balance = balance

    def deposit(self, amount: int) -> None:
        self.balance += amount

    def withdraw(self, amount: int) -> None:
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount


class Dog:
    """Represent a dog that can bark."""

    def __init__(self, name: str) -> None:
        self.name = name

    def bark(self) -> str:
        return f"{self.name} says woof!"


class Person:
    """Represent a person with a name and an age."""

    def __init__(self, name: str, age: int) -> None:
        self.name = name
        self.age = age

    def greet(self) -> str:
        return f"Hello, my name is {self.name}."


class Node:
    """Represent a node of a linked list."""

    def __init__(self, value: Any, next: Node | None = None) -> None:
        self.value = value
        self.next = next


class Cache:
    """Remember the last values by key."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def put(self, key: str, value: Any) -> None:
        if len(self.values) >= self.limit:
            self.values.pop(next(iter(self.values)))
        self.values[key] = value
