"""The files in deploy/: what can be checked of them without a container runtime."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.config_sections import Server

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SECRET = re.compile(r"(sk-|gsk_|tdm-)[A-Za-z0-9_-]{8,}|(API_KEY|TOKEN|PASSWORD)\s*=\s*\S", re.I)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined, comments left out."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    kept = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", kept)
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest.strip()) for word, _, rest in pairs]


def values(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def test_the_image_runs_as_nobody_in_particular() -> None:
    """The last user is a number that is not root: Kubernetes' runAsNonRoot looks at numbers."""
    assert values("USER")[-1] == "10001:10001"


def test_base_images_are_named_exactly() -> None:
    """Both stages start from the same image, with a release and without `latest`."""
    bases = [value.split()[0] for value in values("FROM")]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    image, _, tag = bases[0].partition(":")
    assert "/" not in image
    assert re.fullmatch(r"\d+\.\d+-slim-[a-z]+", tag)


def test_the_image_holds_no_secret() -> None:
    """No key is set, passed at build time or copied in: the build sees only a list of paths."""
    assert not values("ARG")
    assert not SECRET.search((DEPLOY / "Dockerfile").read_text())
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored
    for copied in values("COPY"):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


def test_the_image_stops_and_is_watched() -> None:
    """SIGTERM drains; liveness is asked of /livez without a tool that the image lacks."""
    assert values("STOPSIGNAL") == ["SIGTERM"]
    (check,) = values("HEALTHCHECK")
    assert "/livez" in check
    assert '"python"' in check


def test_the_engine_is_built_for_other_machines() -> None:
    """Not for the builder's own processor: an image that dies of SIGILL elsewhere is of no use."""
    (build,) = [run for run in values("RUN") if "llama-cpp-python" in run]
    assert "-DGGML_NATIVE=OFF" in build
    for feature in ("AVX2", "FMA", "F16C"):
        assert f"-DGGML_{feature}=ON" in build


def test_prometheus_reads_its_configuration() -> None:
    """promtool accepts the file."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "check", "config", str(DEPLOY / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_the_admin_port() -> None:
    """The address is the default of `server.admin_port`."""
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    (where,) = job["static_configs"]
    assert where["targets"] == [f"127.0.0.1:{Server().admin_port}"]
    assert job["metrics_path"] == "/metrics"


def test_nginx_takes_the_replicas_file(tmp_path: Path) -> None:
    """nginx accepts deploy/nginx.conf as it is shipped."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    main = tmp_path / "nginx.conf"
    site = ROOT / "deploy" / "nginx.conf"
    folders = " ".join(
        f"{kind}_temp_path {tmp_path};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {folders} include {site}; }}\n"
    )
    checked = subprocess.run(
        [program, "-t", "-c", str(main), "-p", str(tmp_path)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
