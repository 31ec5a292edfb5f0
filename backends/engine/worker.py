"""The engine's process: one thread steps the scheduler, another reads what the gateway says.

Started by client.py with a socket that it inherits. It ends when that socket does, or when its
parent dies; between steps, so at once unless a long batch is on its way.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backends.engine import drafters, process
from backends.engine.audit import Audit
from backends.engine.decoding import Decoder, NoDecoder
from backends.engine.embedder import Embedder
from backends.engine.llama import library
from backends.engine.llama.context import DecodeFailed
from backends.engine.llama.decoder import LlamaDecoder
from backends.engine.llama.model import LoadFailed, Model
from backends.engine.loading import load, load_embedder, probe, snapshots
from backends.engine.protocol import FrameError, Job, Output, Ready, Wire, encode, receive
from backends.engine.scheduler import Scheduler
from backends.engine.settings import EngineSettings
from backends.engine.slots import Limits

LEAVE_S = 5.0
"""A step that was under way when the gateway went may take so much longer."""


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
            "running": len(scheduler.cells.slots),
            "waiting": scheduler.waiting,
            "reserved": scheduler.cells.reserved,
            "cached": scheduler.cells.cached,
            "used": scheduler.cells.used,
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
    library.start()
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
            model = Model(Path(settings.model), gpu_layers=settings.gpu_layers)
            limits = Limits(context=settings.context or model.trained, cells=0, slots=0)
            exactness, epsilon, decoder = "unknown", None, NoDecoder(model.tokens)
        embedder = load_embedder(settings, model)
    except (LoadFailed, DecodeFailed) as error:
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
