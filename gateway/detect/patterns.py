"""What each kind of finding looks like: re2 patterns of our own, and the check that must agree.

Patterns are compiled over bytes as Latin-1, which is what re2 is fastest at; a text is brought into
that form by scan.py. None is longer than `OVERLAP` can hold, so that one cut by the end of a piece
is whole in the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import re2

from gateway.detect import checks

OVERLAP = 1024
MAX_SUFFIXES = 64

_EDGE = r"(?:^|[^0-9A-Za-z_])"
"""Before a word. re2 has no look-behind, so what is found may begin with one byte too many."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """`needs`: bytes without which there can be no match. Group 1 is what `check` looks at.

    `inside`: a match that was refused may have another one inside it, as a number among numbers.
    """

    regex: Any
    check: Callable[[bytes], bool]
    needs: bytes = b""
    inside: bool = False

    def found(self, text: bytes) -> bool:
        """Whether it is somewhere in the text. Linear in its length."""
        if self.needs not in text:
            return False
        at = 0
        while (match := self.regex.search(text, at)) is not None:
            if self.check(match.group(1)):
                return True
            # Patterns with `inside` begin at a word's edge, so that this stays linear.
            at = match.start(1) + 1 if self.inside else max(match.end(1), match.start() + 1)
        return False


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(pattern.encode(), options)


def _pattern(
    pattern: str,
    check: Callable[[bytes], bool] = lambda found: True,
    *,
    needs: bytes = b"",
    inside: bool = False,
) -> Pattern:
    return Pattern(_compile(pattern), check, needs, inside)


_PREFIXED = (
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b",  # AWS
    r"gh[pousr]_[0-9A-Za-z]{36,255}|github_pat_[0-9A-Za-z_]{40,255}",
    r"gl(?:pat|ptt|dt|rt|soat|cbt)-[0-9A-Za-z_-]{20,200}",  # GitLab
    r"sk-[0-9A-Za-z_-]{20,250}",  # OpenAI, Anthropic, OpenRouter and those who copied them
    r"(?:gsk|nvapi|csk|fw|tgp_v1|xai|pplx|r8|hf|co|voyage|jina|tvly)[_-][0-9A-Za-z_-]{24,250}",
    r"xox[abeoprs]-[0-9A-Za-z-]{16,250}|xapp-[0-9]-[0-9A-Za-z-]{20,250}",  # Slack
    r"hooks\.slack\.com/(?:services|workflows)/[0-9A-Za-z/+]{30,100}",
    r"AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,250}|GOCSPX-[0-9A-Za-z_-]{28}",  # Google
    r"(?:sk|rk|pk)_(?:live|test)_[0-9A-Za-z]{16,250}|whsec_[0-9A-Za-z+/=]{24,100}",  # Stripe
    r"npm_[0-9A-Za-z]{36}|pypi-Ag[0-9A-Za-z_-]{50,250}|rubygems_[0-9a-f]{48}",
    r"SG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{30,64}|key-[0-9a-f]{32}\b",  # SendGrid, Mailgun
    r"[0-9]{8,10}:AA[0-9A-Za-z_-]{33}",  # Telegram
    r"do[opr]_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|dapi[0-9a-f]{32}",
    r"AGE-SECRET-KEY-1[0-9A-Z]{58}|hv[sbr]\.[0-9A-Za-z_-]{24,250}|dp\.pt\.[0-9A-Za-z]{40,44}",
    r"eyJ[0-9A-Za-z_-]{10,250}\.eyJ[0-9A-Za-z_-]{10,250}",  # JSON web tokens
    r"(?:AccountKey|SharedAccessKey)=[0-9A-Za-z+/]{40,100}={0,2}",  # Azure
    r"sqp_[0-9a-f]{40}|lin_api_[0-9A-Za-z]{40}|secret_[0-9A-Za-z]{43}|ntn_[0-9A-Za-z]{40,60}",
    r"dckr_pat_[0-9A-Za-z_-]{24,64}|NRAK-[0-9A-Z]{27}|glsa_[0-9A-Za-z]{32}_[0-9a-f]{8}",
)
_NAMED = (
    r"(?i)(?:api|access|auth|secret|private|client|encryption|signing|master)?[ _.-]{0,2}"
    r"(?:key|token|secret|passw(?:or)?d|pwd|credentials?|bearer|passphrase)[\"']{0,2}"
    r"[ \t]{0,4}(?:[:=]|=>|:=|[ ])[ \t]{0,4}[\"'`]{0,2}([0-9A-Za-z+/_.~=-]{16,200})"
)
_PRIVATE_KEY = (
    r"(-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-[0-9])"
)
_URL_PASSWORD = r"(\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s:/@\"']{1,64}:[^\s:/@\"']{3,128}@)"
_EMAIL = (
    r"([0-9A-Za-z._%+\x80-\xff-]{1,64}@(?:[0-9A-Za-z\x80-\xff-]{1,63}\.){1,8}[0-9A-Za-z-]{2,24})"
)
_CARD = r"(?:^|[^0-9A-Za-z.])([2-6][0-9]{3}(?:[ -]?[0-9]){9,15})(?:$|[^0-9A-Za-z])"
_IBAN = r"(?i)" + _EDGE + r"([a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]){11,30})"
_PHONE = (
    r"(?:^|[^0-9A-Za-z_.+])"
    r"((?:\+|00)[1-9](?:[ ./()-]{0,2}[0-9]){7,13}"
    r"|\(?[2-9][0-9]{2}\)? ?[2-9][0-9]{2}-[0-9]{4}|[2-9][0-9]{2}-[2-9][0-9]{2}-[0-9]{4}"
    r"|[2-9][0-9]{2}\.[2-9][0-9]{2}\.[0-9]{4}"
    r"|(?i:tel|phone|fax|mobile|mobil|cell|handy|telefon|call)[.:]{0,2} ?0?[0-9]"
    r"(?:[ ./()-]{0,2}[0-9]){6,13})"
    r"(?:$|[^0-9A-Za-z_])"
)
_ADDRESS = (
    r"(?:^|[^0-9A-Za-z_.])((?:10|172|192)(?:\.[0-9]{1,3}){3}|f[cd][0-9a-f]{2}(?::[0-9a-f]{0,4}){2,7})"
    r"(?:$|[^0-9A-Za-z.]|\.(?:$|[^0-9]))"
)

_ALWAYS: Mapping[str, tuple[Pattern, ...]] = {
    "keys": (
        _pattern(_EDGE + "(" + "|".join(_PREFIXED) + ")", checks.is_key),
        _pattern(_NAMED, checks.is_secret),
        _pattern(_PRIVATE_KEY, needs=b"-"),
        _pattern(_URL_PASSWORD, checks.is_password, needs=b"://"),
    ),
    "cards": (_pattern(_CARD, checks.is_card, inside=True),),
    "iban": (_pattern(_IBAN, checks.is_iban, inside=True),),
    "email": (_pattern(_EMAIL, checks.is_email, needs=b"@"),),
    "phone": (_pattern(_PHONE, checks.is_phone, inside=True),),
    "hosts": (_pattern(_ADDRESS, checks.is_private_address),),
}
KINDS = tuple(_ALWAYS)
"""What can be looked for: the names in `privacy.detect`."""


def patterns(kinds: Iterable[str], suffixes: Sequence[str] = ()) -> dict[str, tuple[Pattern, ...]]:
    """The patterns of these kinds. `suffixes`: domains whose hosts are internal ones."""
    chosen = {kind: _ALWAYS[kind] for kind in kinds}
    if "hosts" in chosen and suffixes:
        names = "|".join(re2.escape(each.strip(".")) for each in suffixes)
        host = rf"((?:[0-9a-z_-]{{1,63}}\.){{1,8}}(?:{names}))(?:$|[^0-9A-Za-z_-])"
        host = r"(?i)(?:^|[^0-9A-Za-z_.-])" + host
        chosen["hosts"] = (*chosen["hosts"], _pattern(host, needs=b"."))
    return chosen
