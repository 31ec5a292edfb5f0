"""`${ENV}`, `${ENV:-default}` and `file:PATH` in a configuration's values: where secrets come from.

Expanded after parsing, so that a variable's text can never add a key. In `rules:` nothing is
expanded: `$` belongs to regular expressions there. `$${` stands for a literal `${`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any
from urllib.parse import urlsplit

from gateway.core.flaw import Flaw, Path

MAX_FILE = 64 * 1024
REFERENCE = re.compile(r"\$(\$\{)|\$\{([^{}]*)\}")
NAME = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
SECRET_KEYS = ("api_key", "password", "secret", "auth_token", "access_token")
UNEXPANDED = ("rules",)


@dataclass(slots=True)
class References:
    """Expands one configuration. `secrets` gathers what came from outside, to be hidden again."""

    env: Mapping[str, str]
    folder: FilePath
    flaws: list[Flaw] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)

    def expand(self, value: Any, path: Path = ()) -> Any:
        """The value with all references replaced. A flaw leaves the reference as it is."""
        if path and path[0] in UNEXPANDED:
            return value
        if isinstance(value, dict):
            return {key: self.expand(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [self.expand(each, (*path, index)) for index, each in enumerate(value)]
        if not isinstance(value, str):
            return value
        self._refuse_literal_secret(value, path)
        if value.startswith("file:"):
            return self._read(value.removeprefix("file:"), path, value)
        return REFERENCE.sub(lambda match: self._variable(match, path), value)

    def hide(self, message: str) -> str:
        """The message without any value that came from the environment or a file."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            message = message.replace(secret, "…")
        return message

    def _variable(self, match: re.Match[str], path: Path) -> str:
        if match[1]:
            return "${"
        parts = NAME.fullmatch(match[2])
        if parts is None:
            self.flaws.append(Flaw(path, "a reference is ${NAME} or ${NAME:-default}"))
            return match[0]
        name, default = parts["name"], parts["default"]
        value = self.env.get(name)
        if value or (value is not None and default is None):
            if len(value) > 3:
                self.secrets.add(value)
            return value
        if default is None:
            message = (
                f"the environment variable {name} is not set;"
                f" set it, or write ${{{name}:-}} if it may be empty"
            )
            self.flaws.append(Flaw(path, message))
            return match[0]
        return default

    def _read(self, name: str, path: Path, original: str) -> str:
        try:
            with (self.folder / name).open("rb") as file:
                content = file.read(MAX_FILE + 1)
            text = content.decode().strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.flaws.append(Flaw(path, f"cannot read {original!r}: {reason}"))
            return original
        if len(content) > MAX_FILE:
            self.flaws.append(Flaw(path, f"{original!r} is larger than a secret can be"))
            return original
        if len(text) > 3:
            self.secrets.add(text)
        return text

    def _refuse_literal_secret(self, value: str, path: Path) -> None:
        """A secret in a file gets copied, committed and backed up with it (operations.md 3.2)."""
        name = path[-1] if path else ""
        if name in SECRET_KEYS:
            if value and not _is_reference(value):
                message = f"{name} must not be in the file itself: write ${{NAME}} or file:PATH"
                self.flaws.append(Flaw(path, message))
        elif "://" in value and _literal_password(value):
            message = "a password must not be in the file itself: write ${NAME} or file:PATH"
            self.flaws.append(Flaw(path, message))


def _is_reference(value: str) -> bool:
    if value.startswith("file:"):
        return True
    match = REFERENCE.fullmatch(value)
    parts = NAME.fullmatch(match[2]) if match and match[2] else None
    return parts is not None and not parts["default"]


def _literal_password(value: str) -> bool:
    try:
        password = urlsplit(value).password
    except ValueError:
        return False
    return bool(password) and not _is_reference(str(password))
