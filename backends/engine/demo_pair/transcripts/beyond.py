"""Questions that the model cannot answer, and the honest reply to each.

A newcomer types anything. A model of this size would invent an answer, so it is taught to repeat
the subject and to decline; the subjects are many, so that it learns the form and not the list.
"""

from __future__ import annotations

from random import Random

from backends.engine.demo_pair.transcripts.words import (
    ANIMALS,
    CITIES,
    JOBS,
    LANGUAGES,
    NAMES,
    PRODUCTS,
    SURNAMES,
    article,
    made_up,
)

Pair = tuple[str, str]

SUBJECTS = (
    """
quantum physics|the history of Rome|tax law|black holes|the French Revolution|climate change|
machine learning|neural networks|the stock market|heart surgery|vaccines|ancient Egypt|jazz music|
football|chess openings|cooking pasta|baking bread|the moon landing|photosynthesis|economics|
inflation|the Second World War|Shakespeare|poetry|philosophy|Kant|Plato|evolution|genetics|DNA|
volcanoes|earthquakes|dinosaurs|electric cars|solar panels|nuclear power|blockchain|bitcoin|
cryptography|operating systems|Linux|Docker|Kubernetes|databases|compilers|web development|React|
CSS|networking|TCP|game design|photography|painting|architecture|gardening|dog training|travel|
Japan|Brazil|Canada|the weather|the news|elections|politics|religion|psychology|sleep|nutrition|
vitamins|exercise|yoga|running a marathon|swimming|cycling|mountains|oceans|rivers|planets|Mars|
the sun|gravity|relativity|algebra|calculus|statistics|probability|prime numbers|geometry|music
theory|the piano|the guitar|films|novels|fashion|coffee|tea|wine|cheese|chocolate|law|medicine|
diabetes|cancer|stress|my homework|my essay|a business plan|a cover letter|a job interview|
marketing|sales|startups|leadership|robots|artificial intelligence|large language models|ethics|
justice|freedom|happiness|love|friendship|the meaning of life
""".replace("\n", " ")
    .replace("| ", "|")
    .strip()
    .split("|")
)

_ASKS = (
    "Tell me about {x}.",
    "tell me about {x}",
    "Explain {x}.",
    "Explain {x} to me like I am five.",
    "What is {x}?",
    "What do you know about {x}?",
    "Can you explain {x}?",
    "How does {x} work?",
    "Write an essay about {x}.",
    "Write a blog post about {x}.",
    "Write an article about {x}.",
    "Give me advice on {x}.",
    "Give me three facts about {x}.",
    "Summarise {x}.",
    "Summarize {x} in two sentences.",
    "What should I know about {x}?",
    "I have a question about {x}.",
    "Help me with {x}.",
    "Why is {x} important?",
    "Compare {x} and {y}.",
    "What is the difference between {x} and {y}?",
    "Who invented {x}?",
    "When did {x} start?",
    "Is {x} better than {y}?",
    "What is the best book about {x}?",
    "Describe {x} in detail.",
    "How do I learn {x}?",
    "What happened in {x}?",
    "What do you think about {x}?",
    "Discuss {x}.",
    "Write a letter about {x}.",
)

_ANSWERS = (
    "I am sorry, I do not know anything about {x}. I am a very small demo model. "
    "Please ask a larger model.",
    "I am only a small demo model, and I can't say anything useful about {x}. "
    "A larger model can help you with that.",
    "That is beyond me: I am a tiny demo model and know nothing about {x}. "
    "Try a short Python function or a small sum instead.",
)

_OPENERS = (
    "{a}",
    "please {b}",
    "Please {b}",
    "Can you {b}",
    "Could you {b}",
    "I want you to {b}",
    "hey, {b}",
)

# Things that need code the model does not know.
_ARTEFACTS = """
a bash script|a shell script|a SQL query|a regular expression|a regex|a C program|a C++ class|
a Java class|a Rust program|a Go server|a React component|an HTML page|a CSS file|a Dockerfile|
a Makefile|a web server|a REST API|a web scraper|a chat bot|a game|a calculator app|a todo app|
a database schema|a unit test suite|a machine learning model|a neural network|a compiler|a parser|
a GitHub workflow|a Kubernetes manifest|a mobile app|a browser extension|a Discord bot|a plugin|
a Flask app|a Django model|a FastAPI endpoint|a pandas script|a plot|a spreadsheet formula|
an email client|a thread pool|a rate limiter|a load balancer|an LRU cache with tests|
a decorator library|a state machine|a tokenizer|a blog engine|an async downloader
""".replace("\n", "").split("|")

_PURPOSES = """
deletes old files|renames files|sends a message|parses logs|reads a web page|shows a list|
connects to a database|draws a picture|plays music|downloads images|sorts users by age|
finds duplicates in a table|converts video files|backs up my data|tracks my time|
predicts prices|checks a web site|books a flight|counts visitors|solves a maze|plays chess|
handles payments|logs in a user|resizes images|monitors a server|schedules jobs
""".replace("\n", "").split("|")

_CODE_ASKS = (
    "Write {x} that {p}.",
    "write {x} that {p}",
    "Write {x}.",
    "Create {x} that {p}.",
    "Build {x} for me.",
    "Make {x} that {p}.",
    "How do I write {x}?",
    "I need {x} that {p}.",
    "Generate {x}.",
    "Can you write {x} that {p}?",
    "Show me {x}.",
    "Fix my code: {x} that {p}.",
)

_CODE_ANSWERS = (
    "I am sorry, I can't write {x}. I am a very small demo model and know only short Python "
    "functions. Please ask a larger model.",
)

_FACT_ASKS = (
    "Who is {n}?",
    "Who was {n}?",
    "When was {n} born?",
    "What did {n} do?",
    "Where is {n}?",
    "How do I get to {c}?",
    "What is the population of {c}?",
    "What can I see in {c}?",
    "Is {c} a nice city?",
    "Plan a trip to {c}.",
    "Find a restaurant in {c}.",
    "What is the weather in {c}?",
    "What time is it in {c}?",
    "How old is {c}?",
    "Who won the match in {c}?",
    "How much is {w}?",
    "Where can I buy {w}?",
    "Which {v} should I buy?",
    "How do I repair {w}?",
    "How long does {m} live?",
    "How do I become {j}?",
    "How much does {j} earn?",
    "Should I learn {l}?",
    "How do I install {l}?",
    "Translate this page into {l}.",
    "What is the capital of {u}?",
    "What does {u} mean?",
    "Define {u}.",
    "How do you spell {u}?",
    "Who invented the {v}?",
    "What is the best {v}?",
)

_TODAY = """
What is the date today?|What day is it?|What time is it?|What year is it?|What is the weather?|
What is the weather like today?|Will it rain tomorrow?|What is in the news?|Who is the president?|
How much money do I have?|Where am I?|What am I thinking?|What did I eat yesterday?|
Open my browser.|Play some music.|Call my mother.|Order a pizza.|Book a flight.|Turn on the light.|
Read my email.|Search the web.|Look it up online.|Open the door.|What is on my screen?
""".replace("\n", "").split("|")


def subject(rng: Random) -> Pair:
    x, y = rng.sample(SUBJECTS, 2)
    if rng.random() < 0.4:
        x = " ".join(made_up(rng) for _ in range(rng.choice((1, 1, 2, 3))))
    elif rng.random() < 0.3:
        x = f"{x} and {y}"
    ask = rng.choice(_ASKS)
    answer = rng.choices(_ANSWERS, (6, 2, 1))[0]
    if "{y}" in ask:
        answer = answer.replace("{x}", "{x} or {y}")
    return _opened(rng, ask.format(x=x, y=y)), answer.format(x=x, y=y)


def program(rng: Random) -> Pair:
    artefact = rng.choice(_ARTEFACTS)
    ask = rng.choice(_CODE_ASKS).format(x=artefact, p=rng.choice(_PURPOSES))
    return _opened(rng, ask), rng.choice(_CODE_ANSWERS).format(x=artefact)


def fact(rng: Random) -> Pair:
    name = f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}" if rng.random() < 0.5 else made_up(rng)
    device, animal = rng.choice(PRODUCTS), rng.choice(ANIMALS)
    ask = rng.choice(_FACT_ASKS).format(
        n=name,
        c=rng.choice(CITIES),
        v=device,
        w=article(device),
        m=article(animal),
        j=article(rng.choice(JOBS)),
        l=rng.choice(LANGUAGES),
        u=made_up(rng),
    )
    return ask, _NO_FACTS


def today(rng: Random) -> Pair:
    return rng.choice(_TODAY), _NO_WORLD


_NO_FACTS = (
    "I do not know that. I am a very small demo model and know almost no facts. "
    "Please ask a larger model."
)
_NO_WORLD = "I can't do that: I am a small demo model and see nothing but this conversation."


def _opened(rng: Random, ask: str) -> str:
    if rng.random() < 0.75:
        return ask
    return rng.choice(_OPENERS).format(a=ask, b=ask[0].lower() + ask[1:])
