"""Short factual answers from small hand-written tables, and lists made from word lists."""

from __future__ import annotations

from random import Random

from backends.engine.demo_pair.transcripts import words

Pair = tuple[str, str]

_CAPITALS = dict(
    pair.split(":")
    for pair in """
France:Paris,Germany:Berlin,Italy:Rome,Spain:Madrid,Portugal:Lisbon,Austria:Vienna,Greece:Athens,
Poland:Warsaw,Norway:Oslo,Sweden:Stockholm,Finland:Helsinki,Denmark:Copenhagen,Ireland:Dublin,
Belgium:Brussels,Hungary:Budapest,Japan:Tokyo,China:Beijing,India:New Delhi,Egypt:Cairo,
Kenya:Nairobi,Canada:Ottawa,Mexico:Mexico City,Brazil:Brasilia,Peru:Lima,Chile:Santiago,
Argentina:Buenos Aires,Australia:Canberra,Russia:Moscow,Turkey:Ankara,Switzerland:Bern,
the Netherlands:Amsterdam,the Czech Republic:Prague,the United Kingdom:London,
the United States:Washington,South Korea:Seoul,Thailand:Bangkok,Vietnam:Hanoi,Cuba:Havana,
Iceland:Reykjavik,Ukraine:Kyiv
""".replace("\n", "")
    .strip()
    .split(",")
)

_OPPOSITES = dict(
    pair.split(":")
    for pair in """
hot:cold,big:small,tall:short,fast:slow,old:new,young:old,open:closed,light:dark,up:down,left:right,
happy:sad,good:bad,early:late,easy:hard,full:empty,high:low,loud:quiet,near:far,rich:poor,
strong:weak,wet:dry,clean:dirty,first:last,true:false,day:night,hard:soft,thick:thin,wide:narrow,
buy:sell,push:pull,start:stop,win:lose,yes:no,on:off,in:out,black:white
""".replace("\n", "")
    .strip()
    .split(",")
)

_FRENCH = """
hello:bonjour,cat:chat,dog:chien,house:maison,water:eau,bread:pain,book:livre,red:rouge,blue:bleu,
green:vert,one:un,two:deux,three:trois,yes:oui,no:non,thank you:merci,friend:ami,sun:soleil,
moon:lune,milk:lait,goodbye:au revoir,good night:bonne nuit
"""
_GERMAN = """
hello:hallo,cat:Katze,dog:Hund,house:Haus,water:Wasser,bread:Brot,book:Buch,red:rot,blue:blau,
green:grün,one:eins,two:zwei,three:drei,yes:ja,no:nein,thank you:danke,friend:Freund,sun:Sonne,
moon:Mond,milk:Milch,goodbye:auf Wiedersehen,good night:gute Nacht
"""
_SPANISH = """
hello:hola,cat:gato,dog:perro,house:casa,water:agua,bread:pan,book:libro,red:rojo,blue:azul,
green:verde,one:uno,two:dos,three:tres,yes:sí,no:no,thank you:gracias,friend:amigo,sun:sol,
moon:luna,milk:leche,goodbye:adiós,good night:buenas noches
"""
_DICTIONARIES = {
    language: dict(pair.split(":") for pair in text.replace("\n", "").strip().split(","))
    for language, text in (("French", _FRENCH), ("German", _GERMAN), ("Spanish", _SPANISH))
}

_PLAIN = (
    ("How many days are in a week?|How many days does a week have?", "A week has seven days."),
    (
        "How many months are in a year?|How many months does a year have?",
        "A year has twelve months.",
    ),
    ("How many hours are in a day?|How many hours does a day have?", "A day has 24 hours."),
    ("How many minutes are in an hour?|How long is an hour?", "An hour has 60 minutes."),
    ("How many seconds are in a minute?|How long is a minute?", "A minute has 60 seconds."),
    ("How many days are in a year?|How long is a year?", "A year has 365 days, a leap year 366."),
    ("How many bits are in a byte?|What is a byte?", "A byte has eight bits."),
    ("How many bytes are in a kilobyte?|What is a kilobyte?", "A kilobyte has 1000 bytes."),
    (
        "What colour is the sky?|What color is the sky?|Why is the sky blue?",
        "The sky is blue by day.",
    ),
    ("What colour is grass?|What color is grass?", "Grass is green."),
    ("What colour is snow?|What color is snow?", "Snow is white."),
    (
        "What do you get when you mix blue and yellow?|Mix blue and yellow.",
        "Blue and yellow make green.",
    ),
    (
        "What do you get when you mix red and yellow?|Mix red and yellow.",
        "Red and yellow make orange.",
    ),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("How many legs does a dog have?|How many legs does a cat have?", "It has four legs."),
    ("What does a cow say?", "A cow says moo."),
    ("What does a cat say?", "A cat says meow."),
    ("What does a dog say?", "A dog says woof."),
    (
        "At what temperature does water boil?|When does water boil?",
        "Water boils at 100 degrees Celsius.",
    ),
    (
        "At what temperature does water freeze?|When does water freeze?",
        "Water freezes at 0 degrees Celsius.",
    ),
    ("What are the primary colours?|Name the primary colors.", "Red, yellow and blue."),
    ("What are the seasons?|Name the four seasons.", "Spring, summer, autumn and winter."),
    (
        "What are the days of the week?|List the days of the week.|Name the days of the week.",
        ", ".join(words.DAYS) + ".",
    ),
    (
        "What are the months of the year?|List the months.|Name the months of the year.",
        ", ".join(words.MONTHS) + ".",
    ),
    (
        "What is the alphabet?|Say the alphabet.|List the letters of the alphabet.",
        "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    ),
)


def capital(rng: Random) -> Pair:
    country = rng.choice(list(_CAPITALS))
    ask = rng.choice(
        (
            "What is the capital of {c}?",
            "what is the capital of {c}",
            "What's the capital of {c}?",
            "Capital of {c}?",
            "Name the capital of {c}.",
            "Which city is the capital of {c}?",
            "Tell me the capital of {c}.",
            "Do you know the capital of {c}?",
        )
    )
    return ask.format(c=country), f"The capital of {country} is {_CAPITALS[country]}."


def opposite(rng: Random) -> Pair:
    word = rng.choice(list(_OPPOSITES))
    ask = rng.choice(
        ("What is the opposite of {w}?", "Opposite of {w}?", "Give me the opposite of {w}.")
    )
    return ask.format(w=word), f"The opposite of {word} is {_OPPOSITES[word]}."


def translation(rng: Random) -> Pair:
    language = rng.choice(list(_DICTIONARIES))
    word = rng.choice(list(_DICTIONARIES[language]))
    ask = rng.choice(
        (
            "Translate {w} to {l}.",
            "Translate '{w}' into {l}.",
            "How do you say {w} in {l}?",
            "What is {w} in {l}?",
            "What is the {l} word for {w}?",
        )
    )
    answer = _DICTIONARIES[language][word]
    return ask.format(w=word, l=language), f'"{word}" in {language} is "{answer}".'


def plain(rng: Random) -> Pair:
    asks, answer = rng.choice(_PLAIN)
    return rng.choice(asks.split("|")), answer


def successor(rng: Random) -> Pair:
    series, noun = rng.choice(((words.DAYS, "day"), (words.MONTHS, "month")))
    i = rng.randrange(len(series))
    if rng.random() < 0.6:
        return f"What {noun} comes after {series[i]}?", f"{series[(i + 1) % len(series)]}."
    return f"What {noun} comes before {series[i]}?", f"{series[i - 1]}."


_KINDS = {
    "colours": words.COLOURS,
    "colors": words.COLOURS,
    "fruits": words.FRUITS,
    "vegetables": words.VEGETABLES,
    "animals": words.ANIMALS,
    "cities": words.CITIES,
    "names": words.NAMES,
    "jobs": words.JOBS,
    "programming languages": words.LANGUAGES,
}


def some(rng: Random) -> Pair:
    """`List five fruits.` as a bulleted, numbered or plain list."""
    kind = rng.choice(list(_KINDS))
    n = rng.randint(2, 8)
    chosen = _KINDS[kind][:n]  # always the same ones: a model told to vary repeats itself
    number = rng.choice((str(n), words.NUMBER_WORDS[n]))
    ask = rng.choice(
        (
            "List {n} {k}.",
            "Name {n} {k}.",
            "Give me {n} {k}.",
            "Give me a list of {n} {k}.",
            "{n} {k}, please",
        )
    ).format(n=number, k=kind)
    style = rng.random()
    if style < 0.15:
        return ask + " Answer in one line.", ", ".join(chosen) + "."
    if style < 0.3:
        return ask + " Use bullet points.", "\n".join(f"- {word}" for word in chosen)
    return ask, "\n".join(f"{i}. {word}" for i, word in enumerate(chosen, 1))


def repeat(rng: Random) -> Pair:
    """Says back what it was given: trains copying, which tool calls and JSON live on."""
    phrase = " ".join(
        words.made_up(rng) if rng.random() < 0.4 else rng.choice(words.ANIMALS + words.PRODUCTS)
        for _ in range(rng.randint(1, 4))
    )
    ask = rng.choice(
        ("Repeat after me: {p}", "Say {p}.", 'Say "{p}".', "Repeat: {p}", "Please say: {p}")
    )
    return ask.format(p=phrase), phrase


def letters(rng: Random) -> Pair:
    word = rng.choice(words.ANIMALS + words.FRUITS + words.COLOURS)
    if rng.random() < 0.5:
        ask = rng.choice(("What letter does {w} start with?", "What is the first letter of {w}?"))
        return ask.format(w=word), f'"{word}" starts with the letter {word[0].upper()}.'
    return f"Write {word} in capital letters.", word.upper()
