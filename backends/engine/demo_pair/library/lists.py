"""Functions on lists and dictionaries."""

# ruff: noqa: B905, SIM110 - plain loops and plain `zip` are what we want to teach
from __future__ import annotations

from typing import Any


def total(numbers: list[int]) -> int:
    """Return the sum of a list of numbers."""
    result = 0
    for number in numbers:
        result += number
    return result


def product(numbers: list[int]) -> int:
    """Return the product of a list of numbers."""
    result = 1
    for number in numbers:
        result *= number
    return result


def mean(numbers: list[float]) -> float:
    """Compute the mean of a list of numbers."""
    if not numbers:
        raise ValueError("numbers must not be empty")
    return sum(numbers) / len(numbers)


def median(numbers: list[float]) -> float:
    """Compute the median of a list of numbers."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def largest(numbers: list[int]) -> int:
    """Find the largest number in a list."""
    result = numbers[0]
    for number in numbers:
        if number > result:
            result = number
    return result


def smallest(numbers: list[int]) -> int:
    """Find the smallest number in a list."""
    result = numbers[0]
    for number in numbers:
        if number < result:
            result = number
    return result


def evens(numbers: list[int]) -> list[int]:
    """Return the even numbers of a list."""
    return [number for number in numbers if number % 2 == 0]


def odds(numbers: list[int]) -> list[int]:
    """Return the odd numbers of a list."""
    return [number for number in numbers if number % 2 == 1]


def squares(numbers: list[int]) -> list[int]:
    """Return the squares of a list of numbers."""
    return [number * number for number in numbers]


def unique(items: list[Any]) -> list[Any]:
    """Remove the duplicates from a list."""
    seen = set()
    result = []
    for item in items:
        if item not in seen:
            seen.add(item)
            result.append(item)
    return result


def flatten(lists: list[list[Any]]) -> list[Any]:
    """Flatten a list of lists."""
    return [item for inner in lists for item in inner]


def chunks(items: list[Any], size: int) -> list[list[Any]]:
    """Split a list into chunks of a given size."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def rotate(items: list[Any], n: int) -> list[Any]:
    """Rotate a list by n places."""
    return items[n:] + items[:n]


def reverse_list(items: list[Any]) -> list[Any]:
    """Reverse a list."""
    return items[::-1]


def common(a: list[Any], b: list[Any]) -> list[Any]:
    """Return the items that two lists have in common."""
    return [item for item in a if item in b]


def contains(items: list[Any], wanted: Any) -> bool:
    """Check whether a list contains an item."""
    for item in items:
        if item == wanted:
            return True
    return False


def count_item(items: list[Any], wanted: Any) -> int:
    """Count how often an item occurs in a list."""
    return sum(1 for item in items if item == wanted)


def most_common(items: list[Any]) -> Any:
    """Return the most common item of a list."""
    counts: dict[Any, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return max(counts, key=lambda item: counts[item])


def is_sorted(items: list[int]) -> bool:
    """Check whether a list is sorted."""
    return all(a <= b for a, b in zip(items, items[1:]))


def linear_search(items: list[Any], wanted: Any) -> int:
    """Find the index of an item in a list."""
    for i, item in enumerate(items):
        if item == wanted:
            return i
    return -1


def binary_search(items: list[int], wanted: int) -> int:
    """Find an item in a sorted list with binary search."""
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == wanted:
            return middle
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle - 1
    return -1


def bubble_sort(items: list[int]) -> list[int]:
    """Sort a list with bubble sort."""
    n = len(items)
    for i in range(n):
        for j in range(n - i - 1):
            if items[j] > items[j + 1]:
                items[j], items[j + 1] = items[j + 1], items[j]
    return items


def quicksort(items: list[int]) -> list[int]:
    """Sort a list with quicksort."""
    if len(items) <= 1:
        return items
    pivot = items[0]
    smaller = [item for item in items[1:] if item < pivot]
    larger = [item for item in items[1:] if item >= pivot]
    return quicksort(smaller) + [pivot] + quicksort(larger)


def merge_sorted(a: list[int], b: list[int]) -> list[int]:
    """Merge two sorted lists."""
    result = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] <= b[j]:
            result.append(a[i])
            i += 1
        else:
            result.append(b[j])
            j += 1
    return result + a[i:] + b[j:]


def sort_by_length(words: list[str]) -> list[str]:
    """Sort a list of words by length."""
    return sorted(words, key=len)


def sort_descending(numbers: list[int]) -> list[int]:
    """Sort a list of numbers in descending order."""
    return sorted(numbers, reverse=True)


def group_by_first_letter(words: list[str]) -> dict[str, list[str]]:
    """Group a list of words by their first letter."""
    groups: dict[str, list[str]] = {}
    for word in words:
        groups.setdefault(word[0], []).append(word)
    return groups


def invert(mapping: dict[Any, Any]) -> dict[Any, Any]:
    """Swap the keys and values of a dictionary."""
    return {value: key for key, value in mapping.items()}


def merge(a: dict[Any, Any], b: dict[Any, Any]) -> dict[Any, Any]:
    """Merge two dictionaries."""
    result = dict(a)
    result.update(b)
    return result


def transpose(matrix: list[list[Any]]) -> list[list[Any]]:
    """Transpose a matrix."""
    return [list(row) for row in zip(*matrix)]


def running_total(numbers: list[int]) -> list[int]:
    """Compute the running total of a list of numbers."""
    result = []
    current = 0
    for number in numbers:
        current += number
        result.append(current)
    return result


def second_largest(numbers: list[int]) -> int:
    """Find the second largest number in a list."""
    return sorted(set(numbers))[-2]


def remove_empty(items: list[Any]) -> list[Any]:
    """Remove the empty items from a list."""
    return [item for item in items if item]


def pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    """Return all pairs of items of a list."""
    return [(a, b) for i, a in enumerate(items) for b in items[i + 1 :]]


def dot_product(a: list[float], b: list[float]) -> float:
    """Compute the dot product of two vectors."""
    return sum(x * y for x, y in zip(a, b))
