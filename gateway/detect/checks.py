"""Checksums and plausibility: what tells a card or a key from a number that only looks like one."""

from __future__ import annotations

import ipaddress
from collections import Counter
from math import log2

IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE BI", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG DZ", 25: "AO CV GW LY MZ PT ST",
        26: "IR IS TR", 27: "FR GR IT MC MR SM BF CF CG CM DJ GA KM", 28: "AL AZ BY CY DO GT HN HU"
        " LB NI PL SV BJ CI MA ML NE SN TD TG", 29: "BR EG PS QA UA", 30: "JO KW MU YE",
        31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""ISO 13616: how long an account number is, by its country."""

PLACEHOLDER_WORDS = (
    b"example", b"placeholder", b"your", b"xxxx", b"dummy", b"changeme", b"redacted", b"insert",
    b"1234567", b"abcdef", b"test_", b"sample", b"****",
)  # fmt: skip

PLAIN_DOMAINS = ("example.com", "example.org", "example.net", "example", "invalid", "test")
"""RFC 2606: nobody has an address there."""

ROBOT_NAMES = frozenset({"git", "hg", "svn", "noreply", "no-reply", "user", "username", "name"})

TOP_LEVEL = frozenset(
    "com org net edu gov mil int info biz name pro dev app xyz online site tech store cloud shop "
    "blog news email agency company group health care hospital clinic doctor dental bank legal law "
    "work live world today life space science software systems solutions network digital media "
    "design studio capital finance insurance museum travel jobs mobi tel asia cat coop aero post "
    "global international consulting services support team academy school university college "
    "engineering energy solar eco earth house homes estate properties club community social chat "
    "church charity foundation ngo ong berlin hamburg koeln cologne wien bayern ruhr nrw saarland "
    "swiss tirol paris london amsterdam brussels madrid barcelona istanbul moscow tokyo nyc boston "
    "miami sydney melbourne africa capetown gmbh ltd llc inc kim art band music film photo photos "
    "pizza cafe restaurant bar beer wine coffee fit yoga games game bet casino zone page wiki link "
    "click top win vip icu fun one plus expert guru ninja rocks best cool".split()
)
"""Top-level domains of more than two letters that mail comes from; `shape` and `T` are not there,
so that `a @ b.shape` without its blanks is no address."""


def luhn(digits: str) -> bool:
    """ISO/IEC 7812: every second digit from the right doubled, digit sums added up."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) << (place & 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_card(found: bytes) -> bool:
    """A number of a card scheme's beginning and length, whose check digit is right.

    What follows it (`4111… 12/27`) may have been taken for a part of it, so every end counts.
    """
    digits = ""
    for group in found.replace(b"-", b" ").decode("latin-1").split(" "):
        digits += group
        if len(set(digits)) > 1 and len(digits) in _card_lengths(digits) and luhn(digits):
            return True
    return False


def _card_lengths(digits: str) -> tuple[int, ...]:
    two, three, four = int(digits[:2]), int(digits[:3]), int(digits[:4])
    if digits[0] == "4":
        return (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return (16,)
    if two in (34, 37):
        return (15,)
    if two in (36, 38, 39) or 300 <= three <= 305:
        return (14, 16)
    if 3528 <= four <= 3589:
        return (16, 17, 18, 19)
    if four == 6011 or two == 65 or 644 <= three <= 649 or two == 62:
        return (16, 17, 18, 19)
    return (16, 18, 19) if four in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763) else ()


def is_iban(found: bytes) -> bool:
    """ISO 13616: the country's length, and 1 modulo 97 with the first four behind the others."""
    text = "".join(chr(each) for each in found if chr(each).isalnum()).upper()
    length = IBAN_LENGTHS.get(text[:2])
    if length is None or len(text) < length:
        return False
    text = text[:length]
    turned = text[4:] + text[:4]
    return int("".join(str(int(each, 36)) for each in turned)) % 97 == 1


def is_email(found: bytes) -> bool:
    """An address that somebody may have: not of a documentation domain, not a file's name."""
    name, _, domain = found.decode("latin-1").lower().rpartition("@")
    top = domain.rpartition(".")[2]
    if name in ROBOT_NAMES or domain.endswith(PLAIN_DOMAINS):
        return False
    return len(top) == 2 or top in TOP_LEVEL or top.startswith("xn--")


def is_phone(found: bytes) -> bool:
    """As many digits as a number has that can be dialled; 555-01xx is kept for films."""
    digits = bytes(each for each in found if 48 <= each <= 57).decode()
    if digits.startswith("00"):
        digits = digits[2:]
    national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
    if len(national) == 10 and national[3:8] == "55501":
        return False
    if found.startswith(b"+1") and (len(digits) < 11 or digits[1] < "2" or digits[4] < "2"):
        return False
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


def is_private_address(found: bytes) -> bool:
    """RFC 1918 and RFC 4193: an address that means something inside one network only."""
    try:
        address = ipaddress.ip_address(found.decode("latin-1"))
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address in _ULA
    return any(address in network for network in _RFC1918)


_RFC1918 = tuple(
    ipaddress.IPv4Network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
_ULA = ipaddress.IPv6Network("fc00::/7")


def is_secret(found: bytes) -> bool:
    """A value that somebody drew by lot: letters and digits without a pattern, no placeholder."""
    low = found.lower()
    if any(word in low for word in PLACEHOLDER_WORDS):
        return False
    kinds = (any(48 <= c <= 57 for c in found), any(c > 57 for c in found))
    return all(kinds) and entropy(found) >= 3.2


def is_key(found: bytes) -> bool:
    """What follows a provider's own prefix: enough of it drawn by lot."""
    low = found.lower()
    return not any(word in low for word in PLACEHOLDER_WORDS) and entropy(found[4:]) >= 2.5


def is_password(found: bytes) -> bool:
    """A URL's password that is not a word for one."""
    password = found.rpartition(b"@")[0].rpartition(b":")[2]
    words = (b"pass", b"pwd", b"secret", b"user", b"token", b"key", b"$", b"{", b"<", b"%(", b"*")
    return not any(word in password.lower() for word in words)


def entropy(text: bytes) -> float:
    """Bits a byte, by Shannon, of the bytes' own frequencies."""
    size = len(text)
    if not size:
        return 0.0
    return -sum(n / size * log2(n / size) for n in Counter(text).values())
