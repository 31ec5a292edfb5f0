"""The engine's process: one thread steps the scheduler, another reads what the gateway says.

Started by client.py with a socket that it inherits. It ends when that socket does, when its parent
dies, or at SIGTERM; between steps, so at once unless a long batch is on its way.
"""

from __future__ import annotations

import json
import mmap
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from backends.engine import drafters, gguf, memory, native, process
from backends.engine.audit import Audit
from backends.engine.constrained import ConstrainedSampler, Greedy
from backends.engine.decoding import CellsFailed, Decoder, Floats, GrammarRefused, Guesser, Sampler
from backends.engine.embedder import Embedder, EncodeFailed
from backends.engine.encoder import LlamaEncoder
from backends.engine.pooling import room_for
from backends.engine.protocol import (
    FrameError,
    Job,
    Output,
    Ready,
    Wire,
    encode,
    receive,
)
from backends.engine.scheduler import NO_NUMBER, Scheduler
from backends.engine.settings import EngineSettings
from backends.engine.shape import shape
from backends.engine.slots import Limits
from backends.engine.snapshots import Snapshots, fingerprint

LEAVE_S = 5.0
"""A step that was under way when the gateway went may take so much longer."""


class NoDecoder:
    """In its place where a model only embeds: with no slot there is nothing to decode."""

    def __init__(self, model: native.Model) -> None:
        self.vocab = model.tokens

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> Floats:
        raise CellsFailed("this model only embeds")

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None: ...

    def copy(self, source: int, target: int, end: int) -> None: ...

    def sampler(self, job: Job) -> Sampler | None:
        return None

    def guesser(self, job: Job) -> Guesser | None:
        return None

    def save(self, sequence: int) -> memoryview:
        return memoryview(b"")

    def load(self, sequence: int, state: memoryview) -> bool:
        return False

    def piece(self, token: int) -> bytes:
        return b""

    def spelling(self, token: int) -> bytes:
        return b""

    def ends(self, token: int) -> bool:
        return False


class LlamaDecoder:
    """The scheduler's engine: a context, and the vocabulary as tables."""

    def __init__(
        self, model: native.Model, context: native.Context, watch: drafters.Watch | None = None
    ) -> None:
        self._model = model
        self._context = context
        self._watch = watch
        self._pieces = model.pieces()
        self._eog = model.eog()
        self._hidden = np.array([not piece for piece in self._pieces])
        self._hidden[list(self._eog)] = False
        self.vocab = model.tokens

    def decode(
        self, tokens: list[int], positions: list[int], sequences: list[int], wanted: list[bool]
    ) -> Floats:
        try:
            if self._watch is None:
                return self._context.decode(tokens, positions, sequences, wanted)
            return self._watch(self._context.decode, tokens, positions, sequences, wanted)
        except native.DecodeFailed as error:
            if error.code < -1:
                raise  # fatal for the context: better a new process than a doubtful one
            raise CellsFailed(str(error)) from error

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None:
        self._context.remove(sequence, start, end)

    def copy(self, source: int, target: int, end: int) -> None:
        self._context.copy(source, target, end)

    def sampler(self, job: Job) -> Sampler | None:
        plain = job.sampler.plain
        if not job.grammar:
            return None if plain else self._chain(job)
        grammar = self._grammar(job)
        chooser = Greedy() if plain else self._chain(job)
        hidden = self._hidden.copy()
        hidden[[token for token in job.shown if 0 <= token < self.vocab]] = False
        return ConstrainedSampler(chooser, grammar, hidden)

    def guesser(self, job: Job) -> Guesser | None:
        settings = job.sampler
        if settings.temperature <= 0 and not settings.logit_bias:
            return None
        # What looks back would have to be rewound with the drafter.
        blind = replace(
            settings,
            frequency_penalty=0.0,
            presence_penalty=0.0,
            repeat_penalty=1.0,
            dry_multiplier=0.0,
        )
        return native.ChainSampler(blind, self._model, self._eog)

    def _chain(self, job: Job) -> native.ChainSampler:
        return native.ChainSampler(job.sampler, self._model, self._eog, job.tokens)

    def _grammar(self, job: Job) -> native.Grammar:
        if not self._eog:
            raise GrammarRefused("this model has no token that ends an answer")
        try:
            return native.Grammar(self._model, job.grammar)
        except native.GrammarFailed as error:
            raise GrammarRefused(f"the grammar cannot be read: {error}") from None

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def save(self, sequence: int) -> memoryview:
        return self._context.state(sequence)

    def load(self, sequence: int, state: memoryview) -> bool:
        return self._context.restore(sequence, state)

    def spelling(self, token: int) -> bytes:
        return self._pieces[token] or self._model.piece(token, special=True)

    def ends(self, token: int) -> bool:
        return token in self._eog


def load(settings: EngineSettings) -> tuple[native.Model, native.Context, Limits]:
    _require_kv(settings)
    model = native.Model(Path(settings.model), gpu_layers=settings.gpu_layers)
    slots = settings.slots
    if settings.strict and not model.rewinds:
        raise native.LoadFailed("strict needs a model whose sequences can be rewound")
    settings = replace(settings, context=settings.context or model.trained)
    whole = settings.context * slots
    limits = Limits(
        context=settings.context,
        cells=whole if settings.parts else settings.cells or whole,
        slots=slots,
        parts=settings.parts,
        batch=settings.batch,
        chunk=min(settings.chunk, settings.batch),
        verify=min(settings.verify, settings.batch // slots - 1) if model.rewinds else 0,
        queue=settings.queue,
        # A parked sequence is one that was rewound, and so is one whose beginning is reused.
        cached=0 if settings.strict or not model.rewinds else settings.cached,
        optimism=1.0 if settings.strict or not model.rewinds else settings.optimism,
    )
    # llama.cpp reserves a row of logits for each sequence, and aborts where it may not.
    outputs = max(slots * (limits.verify + 1), settings.sequences)
    cells = native.Context(
        model,
        cells=settings.pool,
        sequences=settings.sequences,
        batch=settings.batch,
        outputs=outputs,
        threads=settings.threads,
        flash_attention=settings.flash(model.head),
        unified=not settings.parts,
        offload=settings.gpu_layers > 0,
        kv=settings.kv,
    )
    return model, cells, replace(limits, scores=min(outputs, limits.batch))


def snapshots(settings: EngineSettings) -> Snapshots | None:
    """Those of the memory that this worker inherited."""
    if settings.snapshots < 0:
        return None
    facts = (
        settings.kv,
        str(settings.flash_attention),
        str(settings.gpu_layers),
        version("llama_cpp_python"),
    )
    memory = mmap.mmap(settings.snapshots, 0)
    return Snapshots(memory, fingerprint(Path(settings.model), *facts))


def load_embedder(settings: EngineSettings, model: native.Model) -> Embedder | None:
    """Raises LoadFailed if what comes out of a short text is not a number."""
    if settings.pooling is None:
        return None
    offload = settings.gpu_layers > 0
    room = room_for(
        settings.context or model.trained,
        whole=settings.whole,
        batch=settings.batch,
        offload=offload,
    )
    encoder = LlamaEncoder(
        model,
        room,
        threads=settings.threads,
        flash_attention=settings.flash_attention is not False,
        offload=offload,
    )
    try:
        text = [token % model.tokens for token in range(7, 11)]
        rows = encoder.encode(text, [0, 1, 2, 3], [0] * 4)
    except EncodeFailed as error:
        raise native.LoadFailed(f"the model does not embed: {error}") from error
    if np.isnan(rows).any():
        raise native.LoadFailed(NO_NUMBER)
    encoder.clear()
    return Embedder(encoder, settings.pooling, room)


def _require_kv(settings: EngineSettings) -> None:
    """Raises LoadFailed if the model cannot have the configured KV type: llama.cpp says only no."""
    if settings.kv == "f16":
        return
    try:
        found = shape(gguf.read(Path(settings.model)))
    except gguf.GgufError as error:
        raise native.LoadFailed(str(error)) from error
    flash = settings.flash_attention is not False
    why = memory.quantized_kv_refusal(found, settings.kv, settings.kv, flash)
    if why:
        raise native.LoadFailed(why)


def probe(
    model: native.Model, context: native.Context, verify: int, rows: int = 10
) -> tuple[str, float]:
    """Decode a short text at the widths that verifying uses: are the logits the same, bit for bit?

    "bitwise": they are, so strict sequences do not depend on how many tokens a pass verified.
    "tie-tolerant": they are not (K-quants, some GPUs). Beside it twice the largest difference of a
    logit between any two widths, one included: what is closer than that is a tie. Also the proof
    that the model decodes at all: raises LoadFailed if what comes out is not a number.
    """
    text = [token % model.tokens for token in range(7, 7 + rows)]
    seen: dict[int, Floats] = {}
    for width in sorted({1, 2, 3, 5, verify + 1} & set(range(1, context.outputs + 1))):
        logits = []
        for start in range(0, rows, width):
            part = text[start : start + width]
            positions = list(range(start, start + len(part)))
            wanted = [True] * len(part)
            logits.append(context.decode(part, positions, [0] * len(part), wanted).copy())
        context.remove(0)
        # A last part of one row is of another class: no strict sequence is ever that narrow.
        seen[width] = np.concatenate(logits)[: rows - 1]
        if np.isnan(seen[width]).any():
            raise native.LoadFailed(NO_NUMBER)
    first, *others = seen.values()
    apart = max((float(np.abs(first - logits).max()) for logits in others), default=0.0)
    wide = [logits for width, logits in seen.items() if width > 1]
    same = len(wide) > 1 and all(np.array_equal(wide[0], logits) for logits in wide[1:])
    return "bitwise" if same else "tie-tolerant", 2 * apart


class Worker:
    """Commands in, steps, outputs out."""

    def __init__(
        self, connection: socket.socket, scheduler: Scheduler, embedder: Embedder | None = None
    ) -> None:
        self._connection = connection
        self._scheduler = scheduler
        self._embedder = embedder
        self._commands: queue.SimpleQueue[Wire | None] = queue.SimpleQueue()
        self._speaking = threading.Lock()
        self._seen = 0

    def run(self) -> None:
        """Until the socket ends or `stop`."""
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            for command in self._next_commands():
                if command is None:
                    return
                self._seen += 1
                self._obey(command)
            self._tell(self._scheduler.step(self._admitted))

    def stop(self) -> None:
        """End at the next step. Safe in a signal handler: SimpleQueue.put is reentrant."""
        self._commands.put(None)

    def _listen(self) -> None:
        try:
            while (frame := receive(self._connection)) is not None:
                if frame["op"] == "ping":  # answered here, since a step may take its time
                    self._send({"op": "pong"})
                else:
                    self._commands.put(frame)
        except FrameError as error:
            print(f"engine worker: {error}", file=sys.stderr)  # noqa: T201 (the gateway reads it)
        self._commands.put(None)
        # Where the kernel does not tell of a parent's death, this thread is what is left to end a
        # process whose other thread never comes back from a step.
        time.sleep(LEAVE_S)
        os._exit(1)

    @property
    def _idle(self) -> bool:
        return self._scheduler.idle and (self._embedder is None or self._embedder.idle)

    def _next_commands(self) -> Iterable[Wire | None]:
        """All that have come; if there is nothing to compute, wait for one."""
        if self._idle:
            try:
                # Whoever waits may have a deadline.
                yield self._commands.get(timeout=1.0 if self._scheduler.waiting else None)
            except queue.Empty:
                return
        while not self._commands.empty():
            yield self._commands.get()

    def _obey(self, command: Wire) -> None:
        scheduler = self._scheduler
        match command["op"]:
            case "submit":
                scheduler.submit(Job.unpack(command))
            case "cancel":
                scheduler.cancel(command["id"])
                if self._embedder is not None:
                    self._embedder.cancel(command["id"])
            case "embed" if self._embedder is not None:
                self._embedder.put(command["id"], command["at"], command["tokens"])
            case "draft":
                scheduler.draft(command["id"], command["epoch"], command["base"], command["tokens"])
            case "sync":
                scheduler.sync(command["id"], command["epoch"], command["base"], command["tokens"])
            case "pause":
                scheduler.pause(command["id"], command["on"])
            case "stats":
                self._send({"op": "stats", **self._stats()})

    def _admitted(self, ids: list[int]) -> None:
        """Before they are computed: if that is our end, this says whose prompts were there."""
        self._send({"op": "admitted", "ids": ids})

    def _tell(self, outputs: list[Output]) -> None:
        """One frame a step, even an empty one: it is also the heartbeat."""
        # One batch of texts between two steps of those who generate, never more.
        vectors = [] if self._embedder is None else self._embedder.step()
        frame: Wire = {
            "op": "step",
            "out": outputs,
            "seen": self._seen,
            "idle": self._idle,
        }
        if vectors:
            frame["vectors"] = [[v.id, v.at, v.vector, v.error] for v in vectors]
        self._send(frame)

    def _stats(self) -> dict[str, Any]:
        scheduler, embedder = self._scheduler, self._embedder
        return {
            **asdict(scheduler.stats),
            **scheduler.speculation_stats(),
            "embedded_tokens": embedder.tokens if embedder else 0,
            "embedded_texts": embedder.texts if embedder else 0,
            "running": len(scheduler.slots()),
            "waiting": scheduler.waiting,
            "reserved": scheduler.reserved,
            "cached": scheduler.cached,
            "used": scheduler.used,
            "cells": scheduler.limits.cells,
            "slots": scheduler.limits.slots,
        }

    def _send(self, frame: Wire) -> None:
        try:
            with self._speaking:
                self._connection.sendall(encode(frame))
        except OSError:
            self._commands.put(None)  # the gateway is gone


def serve(connection: socket.socket, settings: EngineSettings) -> None:
    began = time.monotonic()
    native.start()
    try:
        speculation = None
        decoder: Decoder
        epsilon: float | None
        if settings.generates:
            model, context, limits = load(settings)
            exactness, epsilon = probe(model, context, limits.verify)
            speculation = drafters.speculation(
                settings, model, context, limits, exact=exactness == "bitwise"
            )
            decoder = LlamaDecoder(model, context, drafters.watch(settings, speculation))
        else:
            model = native.Model(Path(settings.model), gpu_layers=settings.gpu_layers)
            limits = Limits(context=settings.context or model.trained, cells=0, slots=0)
            exactness, epsilon, decoder = "unknown", None, NoDecoder(model)
        embedder = load_embedder(settings, model)
    except (native.LoadFailed, native.DecodeFailed) as error:
        connection.sendall(encode({"op": "fatal", "detail": str(error)}))
        return
    ready = Ready(
        vocab=model.tokens,
        context=limits.context,
        slots=limits.slots,
        threads=settings.threads,
        load_s=time.monotonic() - began,
        exactness=exactness,
        epsilon=epsilon,
        fim=model.fim.usable,
        meta={
            "description": model.description,
            "trained_context": str(model.trained),
            "verify": str(limits.verify),
            "strict": str(settings.strict).lower(),
            "speculation": drafters.told(speculation),
        },
    )
    scheduler = Scheduler(
        decoder,
        limits,
        snapshots=snapshots(settings) if limits.cached else None,
        speculation=speculation,
        audit=Audit(exact=exactness == "bitwise"),
    )
    worker = Worker(connection, scheduler, embedder)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    connection.sendall(encode(ready.pack()))
    worker.run()
    scheduler.shelve()


def main() -> None:
    connection, argument = process.arguments()
    process.prefer_as_oom_victim()
    settings = EngineSettings(**json.loads(argument))
    if settings.memory:
        process.bound_memory(settings.memory)
    serve(connection, settings)
    # llama.cpp's own threads may still sleep in a barrier; nothing is left to tidy up.
    os._exit(0)


if __name__ == "__main__":
    main()
