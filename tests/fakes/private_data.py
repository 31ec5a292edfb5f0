"""Private data of nobody: numbers with right check digits, addresses, keys; and benign texts."""

from __future__ import annotations

import base64
import string
from collections.abc import Callable, Mapping
from random import Random

LETTERS = string.ascii_letters + string.digits


def card(random: Random) -> str:
    prefix, length = random.choice(
        [("4", 16), ("4", 13), ("51", 16), ("55", 16), ("2221", 16), ("34", 15), ("37", 15),
         ("6011", 16), ("65", 16), ("36", 14), ("3528", 16), ("62", 16)]
    )  # fmt: skip
    body = prefix + digits(random, length - len(prefix) - 1)
    total = 0
    for place, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled // 10 + doubled % 10
    number = body + str(-total % 10)
    gap = random.choice(["", " ", "-"])
    return gap.join(number[at : at + 4] for at in range(0, len(number), 4))


def iban(random: Random) -> str:
    country, length = random.choice(
        [("DE", 22), ("FR", 27), ("GB", 22), ("NL", 18), ("ES", 24), ("IT", 27), ("NO", 15),
         ("CH", 21), ("MT", 31), ("PL", 28)]
    )  # fmt: skip
    body = digits(random, length - 4)
    if country in ("GB", "NL", "MT"):
        body = "".join(random.choice(string.ascii_uppercase) for _ in range(4)) + body[4:]
    number = int("".join(str(int(each, 36)) for each in body + country + "00"))
    text = f"{country}{98 - number % 97:02d}{body}"
    if random.random() < 0.5:
        text = " ".join(text[at : at + 4] for at in range(0, length, 4))
    return text.lower() if random.random() < 0.1 else text


def email(random: Random) -> str:
    name = "".join(random.choice(string.ascii_lowercase) for _ in range(random.randint(3, 10)))
    dot = random.choice([".", "_", "+", "-", ""])
    domain = "".join(random.choice(string.ascii_lowercase) for _ in range(random.randint(4, 12)))
    top = random.choice(["com", "org", "de", "co.uk", "io", "fr", "net", "health", "gmbh"])
    return f"{name}{dot}{random.randint(1, 99)}@{domain}.{top}"


def phone(random: Random) -> str:
    area, office, line = (random.randint(*span) for span in ((201, 989), (201, 554), (1000, 9999)))
    return random.choice(
        [
            f"+1 {area} {office} {line}", f"({area}) {office}-{line}", f"{area}-{office}-{line}",
            f"+49 {random.randint(151, 179)} {digits(random, 8, first='1')}",
            f"+44 20 {digits(random, 4, first='7')} {digits(random, 4)}",
            f"0033 1 {digits(random, 2, first='4')} {digits(random, 2)} 19 28 37",
            f"+91{digits(random, 10, first='9')}", f"Tel: 030 {digits(random, 7, first='4')}",
        ]
    )  # fmt: skip


def key(random: Random) -> str:
    def drawn(count: int, among: str = LETTERS) -> str:
        return "".join(random.choice(among) for _ in range(count))

    low = string.ascii_lowercase + string.digits
    upper = string.ascii_uppercase + "234567"
    hexa = "0123456789abcdef"
    return random.choice(
        [
            "AKIA" + drawn(16, upper), "ghp_" + drawn(36), "github_pat_" + drawn(60),
            "glpat-" + drawn(20), "sk-" + drawn(48), "sk-proj-" + drawn(60), "gsk_" + drawn(52),
            "sk-ant-api03-" + drawn(60), "xoxb-" + drawn(12, string.digits) + "-" + drawn(24),
            "AIza" + drawn(35), "sk_live_" + drawn(24), "npm_" + drawn(36), "hf_" + drawn(34),
            "dop_v1_" + drawn(64, hexa), "SG." + drawn(22) + "." + drawn(43),
            "eyJhbGciOiJIUzI1NiJ9.eyJ" + drawn(40) + "." + drawn(43),
            f"-----BEGIN {random.choice(['RSA ', 'EC ', 'OPENSSH ', ''])}PRIVATE KEY-----\n"
            + base64.b64encode(random.randbytes(48)).decode(),
            f'password = "a9{drawn(18)}"', f"API_KEY=x7{drawn(30, low)}",
            f"Authorization: Bearer 4b{drawn(38)}",
            f"postgres://{drawn(6, string.ascii_lowercase)}:{drawn(14)}@db/main",
        ]
    )  # fmt: skip


def host(random: Random) -> str:
    b, c, d = (random.randint(0, 255) for _ in range(3))
    return random.choice(
        [f"10.{b}.{c}.{d}", f"192.168.{c}.{d}", f"172.{16 + b % 16}.{c}.{d}", f"db{c}.corp.acme.de"]
    )


def digits(random: Random, count: int, first: str = "") -> str:
    return first + "".join(random.choice(string.digits) for _ in range(count - len(first)))


POSITIVES: Mapping[str, Callable[[Random], str]] = {
    "keys": key,
    "cards": card,
    "iban": iban,
    "email": email,
    "phone": phone,
    "hosts": host,
}
SUFFIXES = ("corp.acme.de",)
"""`privacy.hosts` for the internal names among them."""

BENIGN = (
    # Prose.
    "The treaty was signed in 1648, after 30 years of war; about 4,500,000 to 8,000,000 died.",
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money.",
    "Meet at 12:30-14:00 on 2026-11-23, room 4.017, and bring 2-3 copies (A4, 80 g/m2).",
    "ISBN 978-3-16-148410-0, DOI 10.1000/182, arXiv:2502.07776v2, RFC 7519 section 4.1.2.",
    "The population rose from 1 234 567 to 2 345 678 between 1990 and 2020, or 1.9 times.",
    "Price: 1.299,00 EUR; order 2026-000123456; VAT 19 %; flight LH 1234; gate 27B.",
    "Use the password manager; a token of appreciation; the secret of success is persistence.",
    "Our key results: the API key concept, the access token lifetime and the client secret flow.",
    "Write to us at info@example.com or call 555-0123; see https://example.org/contact?id=12345678",
    "pi is 3.14159265358979323846, e is 2.71828182845904523536, phi 1.61803398874989484820.",
    # Code.
    "def add(a: int, b: int) -> int:\n    return a + b  # 0xDEADBEEF, 1_000_000, 1e-9\n",
    "@app.get('/items/{id}')\nasync def item(id: int) -> dict[str, Any]: ...",
    "y = x@w.T + b; z = a @ b.shape[0]; loss = (p@q).mean()",
    "api_key = os.environ['OPENAI_API_KEY']\ntoken = get_token(user)\nsecret = settings.secret",
    "const password = req.body.password; const apiKey = process.env.API_KEY ?? config.apiKey;",
    "PASSWORD=changeme\nAPI_KEY=your-api-key-goes-here\nTOKEN=xxxxxxxxxxxxxxxxxxxx",
    "key: value\nsecretKeyRef:\n  name: my-database-credentials\n  key: password\n",
    "git clone git@github.com:someone/project.git && npm install left-pad@1.3.0 react@18.2.0",
    "SELECT id, token_count FROM runs WHERE key = 'abc' AND created_at > '2024-01-01 00:00:00';",
    "<img src='logo@2x.png' width=1024 height=0768 srcset='a@3x.webp 3x'>",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "commit 3182e8f77c0a4d2b1f9e5a6c8d7b0e9f1a2b3c4d\nAuthor: someone\nDate: Mon Nov 23 2026",
    "uuid = '123e4567-e89b-12d3-a456-426614174000'; mask = 0b1010; port = 8080",
    "for (let i = 0; i < 10000000; i++) { sum += arr[i] * 1103515245 + 12345 }",
    "tokenizer_config.json special_tokens_map.json kv_heads=8 max_position_embeddings=131072",
    'headers = {"Authorization": f"Bearer {token}", "x-api-key": api_key}',
    "http://user:password@localhost:8080/ and redis://:${REDIS_PASSWORD}@cache:6379/0",
    "matrix([[4111, 2, 3], [5500, 0, 12], [3400, 1, 9]])  # 41 11 11 columns",
    # Logs and tables.
    "2026-11-23T06:42:11.123456Z INFO gateway served 200 in 12.345 ms id=req_5f0c6a1d2b9e4c77",
    '127.0.0.1 - - [23/Nov/2026:06:42:11 +0000] "GET /v1/models HTTP/1.1" 200 1234567 "-"',
    "[ 1234.567890] usb 1-1.4: new high-speed USB device number 7 using xhci_hcd",
    'Traceback (most recent call last):\n  File "/usr/lib/python3.11/x.py", line 1187, in f',
    "epoch 17 step 20480 loss 1.23456789 lr 3.0000e-04 tok/s 123456.78 mem 10737418240",
    "timestamp_ns=1732345331123456789 duration_us=1234567 trace=4bf92f3577b34da6a3ce929d0e0e4736",
    "| 1 | 12345678901234 | 99.999 |\n| 2 | 22345678901234 | 98.7 |",
    "8.8.8.8 1.1.1.1 172.217.16.142 version 10.15.7 kernel 6.1.0-28 libssl 1.1.1w",
    'GET /track/9400110200881234567890?sig=short HTTP/2 304 etag W/"5e-18f2"',
    "order 4000000000000000 not paid; total 5000000000000000 units; id 6000000000000000",
    "de 2024 nach 2025: 12 34 56 78; fr 76 3000 6000; NL 91 und GB 29",
    "Lat 52.520008, Lon 13.404954; 48.856613, 2.352222; -33.868820, 151.209290",
)
"""What people paste that gives nothing away: prose, code, logs."""
