"""Word lists that several transcript generators draw from."""

from __future__ import annotations

from random import Random

NAMES = """
Alice Bob Carol David Emma Frank Grace Henry Ivy Jack Karen Leo Maria Nina Oscar Paula Quinn Rosa
Sam Tina Victor Wendy Xavier Yara Zoe Adam Bella Chen Dina Eric Fatima George Hana Ivan Julia Kofi
Lena Marco Nadia Omar Priya Ravi Sofia Tom Uma Vera Will Yusuf Anna Ben Clara Daniel Elena Felix
Gina Hugo Ines Jonas Kira Lucas Mia Noah Olga Peter Ruth Simon Tara Laura
""".split()

SURNAMES = """
Smith Jones Brown Garcia Miller Davis Lopez Wilson Moore Taylor Lee White Clark Young King Green
Baker Adams Hill Carter Novak Kowalski Rossi Meyer Schmidt Weber Fischer Tanaka Sato Singh Patel
Khan Silva Costa Ivanov Nguyen Park Cohen Berg Larsen
""".split()

CITIES = """
London Paris Berlin Madrid Rome Vienna Lisbon Dublin Oslo Helsinki Prague Warsaw Athens Cairo Tokyo
Delhi Sydney Toronto Boston Chicago Denver Seattle Austin Lima Nairobi Lagos Seoul Zurich Geneva
Munich Hamburg Milan Barcelona Porto Krakow Kyoto Osaka Mumbai Santiago Amsterdam
""".split()

ANIMALS = """
cat dog horse cow sheep pig goat duck rabbit mouse lion tiger bear wolf fox owl eagle frog turtle
whale dolphin bee ant spider elephant monkey penguin parrot hedgehog otter
""".split()

COLOURS = "red blue green yellow orange purple black white brown pink grey gold".split()

FRUITS = "apple banana orange pear grape cherry lemon mango peach plum melon kiwi".split()

VEGETABLES = (
    "carrot potato onion tomato pea bean cabbage spinach pepper cucumber leek pumpkin".split()
)

PRODUCTS = """
laptop phone keyboard mouse monitor lamp chair desk book notebook pen backpack bottle camera
headphones speaker tablet printer cable jacket umbrella clock kettle bicycle
""".split()

JOBS = """
teacher nurse doctor engineer painter writer baker farmer pilot lawyer designer gardener chef
student driver manager librarian carpenter electrician programmer
""".split()

LANGUAGES = "Python JavaScript Rust Go Java C++ Ruby Kotlin Swift TypeScript SQL Haskell".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

MONTHS = """
January February March April May June July August September October November December
""".split()

NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
""".split()

_ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr kr pl st tr sh th".split()
_VOWELS = "a e i o u ai ea oo".split()
_CODAS = ["", "", "n", "r", "l", "s", "t", "m", "k", "x"]


def made_up(rng: Random) -> str:
    """A pronounceable word nobody has seen: the only way to answer with it is to copy it."""
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for _ in range(rng.choice((2, 2, 3)))
    )


def person(rng: Random) -> str:
    if rng.random() < 0.15:
        return made_up(rng).capitalize()
    return rng.choice(NAMES)


def city(rng: Random) -> str:
    return made_up(rng).capitalize() if rng.random() < 0.15 else rng.choice(CITIES)


def article(word: str) -> str:
    """`an apple`, `a pear`."""
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def listed(words: list[str]) -> str:
    """`red, blue and green`."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"
