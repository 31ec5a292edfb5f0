"""Functions on strings."""

from __future__ import annotations


def reverse(text: str) -> str:
    """Reverse a string."""
    return text[::-1]


def is_palindrome(text: str) -> bool:
    """Check whether a string is a palindrome."""
    cleaned = text.lower().replace(" ", "")
    return cleaned == cleaned[::-1]


def count_vowels(text: str) -> int:
    """Count the vowels in a string."""
    return sum(1 for char in text.lower() if char in "aeiou")


def count_words(text: str) -> int:
    """Count the words in a string."""
    return len(text.split())


def count_letters(text: str) -> dict[str, int]:
    """Count how often each letter occurs in a string."""
    counts: dict[str, int] = {}
    for char in text:
        counts[char] = counts.get(char, 0) + 1
    return counts


def word_frequencies(text: str) -> dict[str, int]:
    """Count how often each word occurs in a text."""
    counts: dict[str, int] = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def to_upper(text: str) -> str:
    """Convert a string to upper case."""
    return text.upper()


def to_lower(text: str) -> str:
    """Convert a string to lower case."""
    return text.lower()


def capitalize_words(text: str) -> str:
    """Capitalize every word in a string."""
    return " ".join(word.capitalize() for word in text.split())


def remove_spaces(text: str) -> str:
    """Remove all spaces from a string."""
    return text.replace(" ", "")


def remove_vowels(text: str) -> str:
    """Remove the vowels from a string."""
    return "".join(char for char in text if char.lower() not in "aeiou")


def longest_word(text: str) -> str:
    """Return the longest word in a text."""
    return max(text.split(), key=len)


def first_letter(text: str) -> str:
    """Return the first letter of a string."""
    return text[0] if text else ""


def last_letter(text: str) -> str:
    """Return the last letter of a string."""
    return text[-1] if text else ""


def are_anagrams(a: str, b: str) -> bool:
    """Check whether two strings are anagrams."""
    return sorted(a.lower()) == sorted(b.lower())


def repeat(text: str, times: int) -> str:
    """Repeat a string several times."""
    return text * times


def truncate(text: str, limit: int) -> str:
    """Cut a string to a given length."""
    if len(text) <= limit:
        return text
    return text[: limit - 3] + "..."


def to_snake_case(text: str) -> str:
    """Convert a string to snake case."""
    return text.strip().lower().replace(" ", "_")


def reverse_words(text: str) -> str:
    """Reverse the order of the words in a string."""
    return " ".join(reversed(text.split()))


def starts_with(text: str, prefix: str) -> bool:
    """Check whether a string starts with a prefix."""
    return text[: len(prefix)] == prefix


def caesar(text: str, shift: int) -> str:
    """Encrypt a text with the Caesar cipher."""
    result = ""
    for char in text:
        if char.isalpha():
            start = ord("A") if char.isupper() else ord("a")
            result += chr((ord(char) - start + shift) % 26 + start)
        else:
            result += char
    return result


def is_number(text: str) -> bool:
    """Check whether a string is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_pairs(text: str) -> dict[str, str]:
    """Parse lines of the form key=value into a dictionary."""
    pairs = {}
    for line in text.splitlines():
        if "=" in line:
            key, value = line.split("=", 1)
            pairs[key.strip()] = value.strip()
    return pairs


def is_email(text: str) -> bool:
    """Check whether a string looks like an email address."""
    name, sign, host = text.partition("@")
    return bool(name and sign and "." in host)


def initials(name: str) -> str:
    """Return the initials of a name."""
    return "".join(part[0].upper() for part in name.split())


def greet(name: str) -> str:
    """Greet a person by name."""
    return f"Hello, {name}!"


def split_lines(text: str) -> list[str]:
    """Split a text into lines without empty ones."""
    return [line for line in text.splitlines() if line.strip()]
