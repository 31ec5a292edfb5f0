"""`tandem models inspect`: what a GGUF file is, and the memory it takes by context and KV type."""

from __future__ import annotations

import argparse
import sys

from backends.engine.gguf import Gguf, GgufError, read
from backends.engine.memory import Context, bytes_per_token, memory, quantized_kv_refusal
from backends.engine.shape import Layer, Shape, shape
from gateway.cli.model_file import model_file

KV_TYPES = ("f16", "q8_0", "q4_0")
CONTEXTS = (4096, 8192, 32768, 131072)

COMMON: tuple[tuple[str, int, int, int, float | None], ...] = (
    ("Llama-2-7B", 32, 32, 128, 1.5),
    ("Llama-2-13B", 40, 40, 128, 2.8),
    ("Llama-2/3-70B", 80, 8, 128, 14.0),
    ("Llama-3-8B", 32, 8, 128, None),
    ("Llama-3.2-3B", 28, 8, 128, None),
    ("Llama-3.2-1B", 16, 8, 64, None),
    ("Qwen2.5-7B", 28, 4, 128, None),
    ("Qwen2.5-Coder-1.5B", 28, 2, 128, None),
)
"""name, layers, KV heads, head size, and MB a token that a widely quoted table gives for it"""


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("inspect", help="what a GGUF file is, and the memory it takes")
    parser.add_argument(
        "file",
        type=model_file,
        nargs="?",
        help="a path, a file in the model directory, bundled:NAME",
    )
    parser.add_argument(
        "--table", action="store_true", help="KV bytes a token of common models, and totals"
    )
    parser.add_argument("--slots", type=int, default=1, help="requests at once (1)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.file is None and not arguments.table:
        print("name a GGUF file, or ask for --table", file=sys.stderr)
        return 2
    try:
        if arguments.file is not None:
            print("\n".join(report(read(arguments.file), slots=max(1, arguments.slots))))
    except GgufError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.table:
        print("\n".join(table()))
    return 0


def report(gguf: Gguf, *, slots: int = 1) -> list[str]:
    """What is known of a model, as lines. Raises GgufError."""
    found = shape(gguf)
    parts = f" in {len(gguf.paths)} parts" if len(gguf.paths) > 1 else ""
    lines = [
        f"file          {gguf.paths[0].name}: {_size(gguf.size)}{parts}",
        f"architecture  {gguf.architecture}, {len(found.layers)} layers",
        f"parameters    {_count(gguf.parameters)}",
        f"quantization  {gguf.quantization} ({gguf.bits:.2f} bits a weight)",
        f"context       {found.context} tokens as trained",
        f"chat template {'yes' if gguf.template else 'no'}",
        f"fill-in-middle {'yes' if gguf.fim else 'no'}",
    ]
    per_token = bytes_per_token(found)
    if per_token:
        lines.append(f"KV            {per_token:,} bytes a token (f16)")
    if found.recurrence:
        lines.append("state         of its recurrent layers: the same at any length")
    if not found.known:
        lines.append("              (memory for this architecture is a guess: it was not verified)")
    return [*lines, "", *_memory(gguf, found, slots)]


def _memory(gguf: Gguf, found: Shape, slots: int) -> list[str]:
    """Total by context and KV type: rows for the usual contexts that the model was trained for."""
    rows = sorted({c for c in CONTEXTS if c <= found.context} | {found.context or CONTEXTS[0]})
    kinds = [k for k in KV_TYPES if quantized_kv_refusal(found, k, k, True) is None]
    lines = [f"memory, {slots} at once" + "".join(f"{'KV ' + kind:>12}" for kind in kinds)]
    for tokens in rows:
        cells = "".join(
            f"{_size(memory(gguf, context(tokens, slots, kind)).total):>12}" for kind in kinds
        )
        lines.append(f"{tokens:>9} tokens" + cells)
    first = memory(gguf, context(rows[-1], slots, "f16"))
    parts = {
        "weights": first.weights,
        "repacked copy": first.repacked,
        "KV": first.kv,
        "states": first.recurrent,
        "computation": first.compute,
        "worker": first.worker,
    }
    told = ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size)
    lines.append(f"of which, at {rows[-1]} tokens and f16: {told}")
    refused = quantized_kv_refusal(found, "q8_0", "q8_0", True)
    return [*lines, refused] if refused else lines


def context(tokens: int, slots: int, kind: str) -> Context:
    """A context as our worker makes it: whole contexts for all slots, drafts of up to 8 tokens."""
    return Context(
        cells=-(-tokens // 256) * 256 * slots,
        sequences=slots,
        outputs=9 * slots,
        kv_key=kind,
        kv_value=kind,
        unified=False,
    )


def table() -> list[str]:
    """KV memory of common models, and how far a widely quoted table is off."""
    lines = [
        "KV cells in f16: layers x KV heads x (key + value) x 2 bytes",
        f"{'model':20}{'bytes a token':>14}{'at 4K':>10}{'at 128K':>10}  widely quoted",
    ]
    ratios = []
    for name, layers, heads, head, quoted in COMMON:
        each = bytes_per_token(_common(layers, heads, head))
        told = ""
        if quoted is not None:
            ratios.append(quoted * 1e6 / each)
            told = f"  {quoted:g} MB: {ratios[-1]:.2g} times too high"
        lines.append(f"{name:20}{each:>14,}{_size(each << 12):>10}{_size(each << 17):>10}{told}")
    lines.append(
        f"Widely quoted figures a token are {min(ratios):.0f} to {max(ratios):.0f} times too high:"
        " count layers and KV heads, not parameters."
    )
    return lines


def _common(layers: int, kv_heads: int, head: int) -> Shape:
    return Shape(
        architecture="llama",
        known=True,
        layers=(Layer(kv_heads=kv_heads),) * layers,
        embedding=kv_heads * head,
        heads=kv_heads,
        key=head,
        value=head,
        feed_forward=0,
        vocabulary=0,
        context=0,
    )


def _size(size: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def _count(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.2f} billion"
    return f"{count / 1e6:.2f} million"
