"""A certificate for localhost that only who is told to trusts: made by openssl, else a skip."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Localhost:
    """`certificate` is the file that a client has to trust, `key` what a server needs beside it."""

    certificate: Path
    key: Path

    def server(self, *protocols: str) -> ssl.SSLContext:
        """A server's context that offers these protocols."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def client(self) -> ssl.SSLContext:
        """A client's that trusts it and nothing else."""
        return ssl.create_default_context(cafile=str(self.certificate))


def localhost(folder: Path) -> Localhost:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    made = Localhost(folder / "cert.pem", folder / "key.pem")
    command = [
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", str(made.key), "-out", str(made.certificate), "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return made
