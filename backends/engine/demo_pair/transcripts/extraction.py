"""Text in, JSON out: people, orders, events, products, classifications."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from backends.engine.demo_pair.transcripts import words

Pair = tuple[str, str]
Record = tuple[str, dict[str, Any]]


def _person(rng: Random) -> Record:
    name, age, home, job = (
        words.person(rng),
        rng.randint(18, 79),
        words.city(rng),
        rng.choice(words.JOBS),
    )
    full = f"{name} {rng.choice(words.SURNAMES)}" if rng.random() < 0.5 else name
    text = rng.choice(
        (
            f"{full} is {age} years old and lives in {home}.",
            f"{full}, {age}, from {home}.",
            f"My name is {full}, I am {age} and I live in {home}.",
            f"{full} is {words.article(job)} from {home} and is {age} years old.",
        )
    )
    record: dict[str, Any] = {"name": full, "age": age, "city": home}
    if job in text:
        record["job"] = job
    return text, record


def _order(rng: Random) -> Record:
    product, amount, price = rng.choice(words.PRODUCTS), rng.randint(1, 9), rng.randint(2, 99)
    who = words.person(rng)
    text = rng.choice(
        (
            f"{who} ordered {amount} {product}s for {price} euros.",
            f"Order: {amount} x {product} at {price} euros for {who}.",
            f"{who} wants to buy {amount} {product}s and pays {price} euros.",
        )
    )
    return text, {"customer": who, "product": product, "quantity": amount, "price": price}


def _event(rng: Random) -> Record:
    title = rng.choice(("meeting", "concert", "party", "workshop", "dinner", "lecture", "match"))
    day, hour, place = rng.choice(words.DAYS), rng.randint(8, 22), words.city(rng)
    text = rng.choice(
        (
            f"The {title} is on {day} at {hour}:00 in {place}.",
            f"There is a {title} in {place} on {day} at {hour}:00.",
            f"Join us for the {title} on {day}, {hour}:00, {place}.",
        )
    )
    return text, {"title": title, "day": day, "time": f"{hour}:00", "place": place}


def _contact(rng: Random) -> Record:
    name = words.person(rng)
    host = rng.choice(("example.com", "example.org", f"{words.made_up(rng)}.com"))
    mail = f"{name.lower()}@{host}"
    phone = f"555-{rng.randint(1000, 9999)}"
    text = rng.choice(
        (
            f"You can reach {name} at {mail} or {phone}.",
            f"{name}'s email is {mail} and the phone number is {phone}.",
            f"Contact: {name}, {mail}, {phone}",
        )
    )
    return text, {"name": name, "email": mail, "phone": phone}


_RECORDS: tuple[Callable[[Random], Record], ...] = (_person, _person, _order, _event, _contact)

_FORMS = (
    "Extract the data as JSON: {t}",
    "Extract JSON from this text: {t}",
    "{t} Answer in JSON.",
    "Turn this into JSON: {t}",
    "Convert to JSON: {t}",
    "Return a JSON object for: {t}",
    "{t}\nGive me this as JSON.",
    "Extract {k} as JSON from: {t}",
    "Read the text and answer with a JSON object with the keys {k}.\n\n{t}",
    "{t} Return JSON with {k}.",
)


def extraction(rng: Random) -> Pair:
    text, record = rng.choice(_RECORDS)(rng)
    form = rng.choice(_FORMS)
    if "{k}" in form:  # the caller names the keys: answer with those, in that order
        keys = rng.sample(list(record), rng.randint(1, len(record)))
        record = {key: record[key] for key in keys}
    ask = form.format(t=text, k=words.listed(list(record)))
    return ask, dumped(rng, record)


def dumped(rng: Random, record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, indent=2 if rng.random() < 0.15 else None)


_GOOD = """
I love this {p}.|This {p} is great!|The {p} works very well.|What a wonderful {p}!|
Best {p} I ever had.|I am very happy with the {p}.
""".replace("\n", "").split("|")
_BAD = """
I hate this {p}.|This {p} is terrible.|The {p} broke after one day.|What an awful {p}!|
Worst {p} I ever had.|I am not happy with the {p}.
""".replace("\n", "").split("|")
_PLAIN = """
The {p} is blue.|The {p} arrived on Monday.|I bought a {p}.|This is a {p}.|The {p} has two parts.
""".replace("\n", "").split("|")


def sentiment(rng: Random) -> Pair:
    label, texts = rng.choice((("positive", _GOOD), ("negative", _BAD), ("neutral", _PLAIN)))
    text = rng.choice(texts).format(p=rng.choice(words.PRODUCTS))
    if rng.random() < 0.5:
        ask = f"Classify the sentiment as JSON: {text}"
        return ask, json.dumps({"sentiment": label})
    ask = rng.choice(
        (
            "Is this review positive, negative or neutral? {t}",
            "What is the sentiment of this text? {t}",
            "Classify: {t}",
        )
    )
    return ask.format(t=text), label


def invented(rng: Random) -> Pair:
    """`Give me a JSON object for a user`: no source text, plausible values."""
    kind = rng.choice(("user", "product", "event", "person", "order", "city"))
    name = rng.choice(words.NAMES)
    examples: dict[str, dict[str, Any]] = {
        "user": {"id": rng.randint(1, 99), "name": name, "email": f"{name.lower()}@example.com"},
        "person": {"name": name, "age": rng.randint(18, 79), "city": rng.choice(words.CITIES)},
        "product": {
            "name": rng.choice(words.PRODUCTS),
            "price": rng.randint(2, 99),
            "in_stock": rng.random() < 0.7,
        },
        "event": {
            "title": "meeting",
            "day": rng.choice(words.DAYS),
            "time": f"{rng.randint(8, 20)}:00",
        },
        "order": {
            "id": rng.randint(1, 99),
            "items": rng.sample(words.PRODUCTS, 2),
            "paid": rng.random() < 0.5,
        },
        "city": {"name": rng.choice(words.CITIES), "population": rng.randint(1, 99) * 10_000},
    }
    record = examples[kind]
    ask = rng.choice(
        (
            "Give me a JSON object for {k}.",
            "Write a JSON example of {k}.",
            "Make up {k} as JSON.",
            "Show me {k} in JSON.",
        )
    )
    return ask.format(k=words.article(kind)), dumped(rng, record)
