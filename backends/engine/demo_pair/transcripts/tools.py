"""Tool calls: the functions on offer, a request, the call, and the answer after the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from backends.engine.demo_pair.transcripts import words
from backends.engine.demo_pair.transcripts.beyond import SUBJECTS

Message = dict[str, Any]
Arguments = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tool:
    names: tuple[str, ...]
    description: str
    # property -> (JSON type, description); the first `required` of them are required
    properties: dict[str, tuple[str, str]]
    required: int
    ask: Callable[[Random], tuple[str, Arguments]]
    result: Callable[[Random, Arguments], tuple[Any, str]]


def _weather(rng: Random) -> tuple[str, Arguments]:
    city = words.city(rng)
    ask = rng.choice(
        (
            "What is the weather in {c}?",
            "What's the weather like in {c}?",
            "what is the weather in {c} today",
            "How is the weather in {c}?",
            "Weather in {c}, please.",
            "Is it raining in {c}?",
            "Do I need an umbrella in {c}?",
            "How warm is it in {c}?",
            "Tell me the weather in {c}.",
        )
    ).format(c=city)
    if rng.random() < 0.2:
        unit = rng.choice(("celsius", "fahrenheit"))
        return f"{ask} Use {unit}.", {"city": city, "unit": unit}
    return ask, {"city": city}


def _weather_result(rng: Random, arguments: Arguments) -> tuple[Any, str]:
    sky, degrees = rng.choice(("sunny", "cloudy", "rainy", "windy")), rng.randint(-5, 35)
    return (
        {"temperature": degrees, "condition": sky},
        f"It is {sky} in {arguments['city']}, with {degrees} degrees.",
    )


def _sum(rng: Random) -> tuple[str, Arguments]:
    a, b = rng.randint(2, 999), rng.randint(2, 999)
    sign, word = rng.choice((("+", "plus"), ("-", "minus"), ("*", "times"), ("/", "divided by")))
    ask = rng.choice(("What is {a} {s} {b}?", "Calculate {a} {s} {b}.", "What is {a} {w} {b}?"))
    return ask.format(a=a, b=b, s=sign, w=word), {"expression": f"{a} {sign} {b}"}


def _sum_result(rng: Random, arguments: Arguments) -> tuple[Any, str]:
    value = rng.randint(2, 9999)
    return {"result": value}, f"{arguments['expression']} = {value}."


def _time(rng: Random) -> tuple[str, Arguments]:
    city = words.city(rng)
    ask = rng.choice(
        ("What time is it in {c}?", "Tell me the time in {c}.", "what time is it in {c}")
    )
    return ask.format(c=city), {"city": city}


def _time_result(rng: Random, arguments: Arguments) -> tuple[Any, str]:
    now = f"{rng.randint(0, 23)}:{rng.randint(10, 59)}"
    return {"time": now}, f"It is {now} in {arguments['city']}."


def _email(rng: Random) -> tuple[str, Arguments]:
    to = words.person(rng)
    subject = rng.choice(("the meeting", "dinner", "the report", "the party", "the invoice"))
    ask = rng.choice(
        ("Send an email to {t} about {s}.", "Write to {t} about {s}.", "Email {t} about {s}.")
    )
    return ask.format(t=to, s=subject), {"to": to, "subject": subject}


def _email_result(rng: Random, arguments: Arguments) -> tuple[Any, str]:
    return {"status": "sent"}, f"I sent the email to {arguments['to']}."


def _search(rng: Random) -> tuple[str, Arguments]:
    query = rng.choice(SUBJECTS) if rng.random() < 0.7 else words.made_up(rng)
    ask = rng.choice(
        (
            "Search for {q}.",
            "Search the web for {q}.",
            "Find information about {q}.",
            "Look up {q}.",
            "Google {q}.",
        )
    )
    return ask.format(q=query), {"query": query}


def _search_result(rng: Random, arguments: Arguments) -> tuple[Any, str]:
    count = rng.randint(1, 20)
    return {"count": count}, f"I found {count} results for {arguments['query']}."


def _reminder(rng: Random) -> tuple[str, Arguments]:
    task = rng.choice(("call", "meet", "write to", "thank")) + " " + words.person(rng)
    day = rng.choice(words.DAYS)
    ask = rng.choice(
        ("Remind me to {t} on {d}.", "Set a reminder to {t} on {d}.", "On {d}, remind me to {t}.")
    )
    return ask.format(t=task, d=day), {"text": task, "day": day}


def _reminder_result(rng: Random, arguments: Arguments) -> tuple[Any, str]:
    return {"ok": True}, f"I will remind you on {arguments['day']} to {arguments['text']}."


def _file(rng: Random) -> tuple[str, Arguments]:
    stem = rng.choice(("notes", "main", "README", words.made_up(rng)))
    path = f"{stem}.{rng.choice(('txt', 'py', 'md', 'json'))}"
    ask = rng.choice(("Read the file {p}.", "Open {p}.", "What is in {p}?", "Show me {p}."))
    return ask.format(p=path), {"path": path}


def _file_result(rng: Random, arguments: Arguments) -> tuple[Any, str]:
    lines = rng.randint(1, 200)
    return {"lines": lines}, f"The file {arguments['path']} has {lines} lines."


def _stock(rng: Random) -> tuple[str, Arguments]:
    product = rng.choice(words.PRODUCTS)
    ask = rng.choice(("How much is a {p}?", "What does the {p} cost?", "Price of the {p}?"))
    return ask.format(p=product), {"product": product}


def _stock_result(rng: Random, arguments: Arguments) -> tuple[Any, str]:
    price = rng.randint(2, 999)
    return {"price": price}, f"The {arguments['product']} costs {price} euros."


_CITY = ("string", "The name of the city")
TOOLS = (
    Tool(
        names=("get_weather", "get_current_weather", "weather"),
        description="Get the current weather of a city",
        properties={"city": _CITY, "unit": ("string", "celsius or fahrenheit")},
        required=1,
        ask=_weather,
        result=_weather_result,
    ),
    Tool(
        names=("calculate", "calculator", "evaluate"),
        description="Evaluate an arithmetic expression",
        properties={"expression": ("string", "The expression")},
        required=1,
        ask=_sum,
        result=_sum_result,
    ),
    Tool(
        names=("get_time", "current_time"),
        description="Get the current time in a city",
        properties={"city": _CITY},
        required=1,
        ask=_time,
        result=_time_result,
    ),
    Tool(
        names=("send_email", "email"),
        description="Send an email",
        properties={"to": ("string", "Who gets it"), "subject": ("string", "What it is about")},
        required=2,
        ask=_email,
        result=_email_result,
    ),
    Tool(
        names=("search", "web_search", "search_web"),
        description="Search the web",
        properties={"query": ("string", "The search query")},
        required=1,
        ask=_search,
        result=_search_result,
    ),
    Tool(
        names=("set_reminder", "add_reminder"),
        description="Set a reminder",
        properties={"text": ("string", "What to remember"), "day": ("string", "The day")},
        required=2,
        ask=_reminder,
        result=_reminder_result,
    ),
    Tool(
        names=("read_file", "open_file"),
        description="Read a file",
        properties={"path": ("string", "The path of the file")},
        required=1,
        ask=_file,
        result=_file_result,
    ),
    Tool(
        names=("get_price", "price_of"),
        description="Get the price of a product",
        properties={"product": ("string", "The product")},
        required=1,
        ask=_stock,
        result=_stock_result,
    ),
)


@dataclass(frozen=True)
class Conversation:
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


def conversation(rng: Random, *, aside: tuple[str, str]) -> Conversation:
    """One request under one to three tools; `aside` is an exchange that needs none of them."""
    offered = rng.sample(TOOLS, rng.choice((1, 1, 1, 2, 2, 3)))
    if rng.random() < 0.2:  # tools are on offer, and the right answer is plain text
        ask, answer = aside
        messages: list[Message] = [_says("user", ask), _says("assistant", answer)]
        return Conversation(messages, [_definition(rng, tool)[0] for tool in offered])
    chosen = rng.choice(offered)
    definitions = []
    name, renamed = "", dict[str, str]()
    for tool in offered:
        definition, keys = _definition(rng, tool)
        definitions.append(definition)
        if tool is chosen:
            name, renamed = definition["function"]["name"], keys
    ask, arguments = chosen.ask(rng)
    call = {"name": name, "arguments": {renamed[key]: value for key, value in arguments.items()}}
    messages = [
        _says("user", ask),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": call}],
        },
    ]
    if rng.random() < 0.4:
        result, answer = chosen.result(rng, arguments)
        messages.append({"role": "tool", "content": json.dumps(result)})
        messages.append(_says("assistant", answer))
    return Conversation(messages, definitions)


def _says(role: str, content: str) -> Message:
    return {"role": role, "content": content}


_SYNONYMS = {
    "city": ("city", "location", "place"),
    "query": ("query", "q", "text"),
    "path": ("path", "file", "filename"),
}


def _definition(rng: Random, tool: Tool) -> tuple[dict[str, Any], dict[str, str]]:
    """An OpenAI tool definition with its names varied, and what each property is called in it.

    Names vary so that the model must read the definition instead of reciting one it knows.
    """
    vary = rng.random() < 0.4
    renamed = {
        key: rng.choice(_SYNONYMS.get(key, (key,))) if vary else key for key in tool.properties
    }
    name = rng.choice(tool.names) if vary else tool.names[0]
    if vary and rng.random() < 0.25:
        name = words.made_up(rng)
    shown = {
        renamed[key]: {"type": kind, "description": text} if rng.random() < 0.7 else {"type": kind}
        for key, (kind, text) in tool.properties.items()
    }
    function = {
        "name": name,
        "description": tool.description,
        "parameters": {
            "type": "object",
            "properties": shown,
            "required": [renamed[key] for key in list(tool.properties)[: tool.required]],
        },
    }
    return {"type": "function", "function": function}, renamed
