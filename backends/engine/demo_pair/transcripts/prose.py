"""Very short stories and descriptions: something that streams for a few seconds."""

from __future__ import annotations

from random import Random

from backends.engine.demo_pair.transcripts import words

Pair = tuple[str, str]

_PLACES = """
in a small house by the sea|in a green forest|on a quiet farm|in the old town|near a wide river|
at the foot of a mountain|in a warm garden|on a small island
""".replace("\n", "").split("|")

_WISHES = """
a friend|a quiet place to sleep|the way home|a lost key|the biggest apple in the world|
a red balloon|something new to learn|a good story
""".replace("\n", "").split("|")

_TRAITS = "small curious kind brave sleepy clever friendly shy cheerful patient".split()

_MIDDLES = (
    "One morning {n} went for a walk and met {o}. They talked for a long time.",
    "One day it rained, and {n} found {o} under a tree. They shared some bread.",
    "One evening {n} heard a strange sound. It was {o}, who needed help.",
    "On the first day of spring {n} asked {o} for advice.",
)

_TURNS = (
    "Together they looked everywhere, first in the morning and then at night.",
    "They crossed a bridge, climbed a hill and counted the stars.",
    "They made a plan and worked hard until the sun went down.",
    "They laughed, and the day went by quickly.",
)

_ENDINGS = (
    "In the end {n} found {w}, and they were happy.",
    "At last {n} had {w}, and nobody was alone any more.",
    "When they came home, {w} was waiting there. The end.",
)

_STORY_ASKS = (
    "Tell me a story.",
    "tell me a short story",
    "Write a short story.",
    "Write a story.",
    "Tell me a story about {a}.",
    "Write a story about {a}.",
    "Write a short story about {a}.",
    "A story about {a}, please.",
    "Once upon a time",
)

_ANIMAL_FACTS = {
    "cat": "a small animal with soft fur. Cats sleep a lot and catch mice",
    "dog": "a friendly animal that lives with people. Dogs like to run and play",
    "horse": "a large animal with four legs. Horses are fast and eat grass",
    "cow": "a large farm animal. Cows eat grass and give milk",
    "bee": "a small insect with wings. Bees visit flowers and make honey",
    "owl": "a bird that is awake at night. Owls have large eyes and hear very well",
    "frog": "a small animal that lives near water. Frogs can jump far",
    "whale": "a very large animal that lives in the sea. Whales breathe air",
    "spider": "a small animal with eight legs. Spiders make webs",
    "elephant": "a very large animal with a long nose. Elephants eat plants",
    "penguin": "a bird that can swim but can't fly. Penguins live where it is cold",
    "fox": "a clever animal with red fur. Foxes live in forests",
    "duck": "a bird that swims on water. Ducks have flat feet",
    "mouse": "a very small animal with a long tail. Mice eat seeds",
}


def story(rng: Random) -> Pair:
    animal, other = rng.sample(words.ANIMALS, 2)
    name, trait = rng.choice(words.NAMES), rng.choice(_TRAITS)
    parts = (
        f"Once upon a time there was {words.article(trait)} {animal} called {name}, "
        f"who lived {rng.choice(_PLACES)}.",
        f"{name} wanted {{w}} more than anything.",
        rng.choice(_MIDDLES),
        rng.choice(_TURNS),
        rng.choice(_ENDINGS),
    )
    text = " ".join(parts).format(n=name, o=words.article(other), w=rng.choice(_WISHES))
    return rng.choice(_STORY_ASKS).format(a=words.article(animal)), text


def animal(rng: Random) -> Pair:
    name = rng.choice(list(_ANIMAL_FACTS))
    shown = words.article(name)
    ask = rng.choice(
        ("What is {a}?", "Describe {a}.", "Tell me about the {n}.", "Explain what {a} is.")
    )
    return ask.format(a=shown, n=name), f"{shown.capitalize()} is {_ANIMAL_FACTS[name]}."


def message(rng: Random) -> Pair:
    """A short e-mail or invitation with the given names and day."""
    to, sender, day = words.person(rng), words.person(rng), rng.choice(words.DAYS)
    kind, line = rng.choice(
        (
            ("a meeting", "Can we meet on {d}? Please tell me if the time works for you."),
            ("a birthday party", "I would like to invite you to my birthday party on {d}."),
            ("dinner", "Would you like to come to dinner on {d}?"),
            ("the report", "Please send me the report by {d}. Thank you for your help."),
        )
    )
    ask = f"Write a short email to {to} about {kind} on {day}. Sign it as {sender}."
    if rng.random() < 0.3:
        ask = f"Write an email from {sender} to {to} about {kind} on {day}."
    return ask, f"Hello {to},\n\n{line.format(d=day)}\n\nBest wishes,\n{sender}"


def steps(rng: Random) -> Pair:
    """Short how-to lists."""
    task, lines = rng.choice(_STEPS)
    ask = rng.choice(
        ("How do I {t}?", "Explain how to {t}.", "Give me the steps to {t}.", "How to {t}?")
    )
    return ask.format(t=task), "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


_STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "make tea",
        (
            "Boil some water.",
            "Put a tea bag into a cup.",
            "Pour in the water.",
            "Wait three minutes.",
            "Take out the tea bag.",
        ),
    ),
    (
        "make coffee",
        (
            "Boil some water.",
            "Put coffee into a filter.",
            "Pour the water slowly.",
            "Enjoy your coffee.",
        ),
    ),
    (
        "boil an egg",
        (
            "Put water into a pot.",
            "Wait until it boils.",
            "Add the egg.",
            "Wait eight minutes.",
            "Cool it in cold water.",
        ),
    ),
    (
        "read a file in Python",
        (
            "Import `Path` from `pathlib`.",
            'Make a path: `path = Path("notes.txt")`.',
            "Read it: `text = path.read_text()`.",
        ),
    ),
    (
        "install a Python package",
        (
            "Create an environment: `python -m venv .venv`.",
            "Activate it.",
            "Run `pip install` and the name of the package.",
        ),
    ),
    (
        "run a Python script",
        ("Save the script as `main.py`.", "Open a terminal.", "Run `python main.py`."),
    ),
    (
        "write a test in Python",
        (
            "Make a file `test_example.py`.",
            "Write a function whose name starts with `test_`.",
            "Use `assert` in it.",
            "Run `pytest`.",
        ),
    ),
    (
        "use Tandem",
        (
            "Start it with `tandem serve`.",
            "Point your OpenAI client at the address it prints.",
            "Send a request with the model `auto`.",
        ),
    ),
    (
        "start Tandem",
        ("Open a terminal.", "Run `tandem serve`.", "Wait until it prints its address."),
    ),
    (
        "plant a tree",
        ("Dig a hole.", "Put in the tree.", "Fill the hole with earth.", "Give it water."),
    ),
    (
        "wash your hands",
        ("Wet your hands.", "Use soap.", "Rub them for 20 seconds.", "Dry them with a towel."),
    ),
    (
        "make a sandwich",
        (
            "Take two slices of bread.",
            "Put butter on them.",
            "Add cheese and tomato.",
            "Put the slices together.",
        ),
    ),
)
