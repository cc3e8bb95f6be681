"""SIGKILL at a chosen file-system call, in a forked child: what is left on disk is what a real kill leaves.

Every call that changes something under a root is a point to be killed at: just before it, and for the
writers in C and Rust, which Python's audit does not see, also with half of the file written.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = {
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.chmod": 1,
}
"""Audited call → how many of its arguments are paths."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Points:
    """Counts the calls that change something under `root`, and kills this process at the `fatal`-th."""

    def __init__(self, root: Path, fatal: int | None) -> None:
        self.root, self.fatal, self.count = str(root), fatal, 0
        self.names: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """The audit hook."""
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & _WRITING:
                self.at(event, path)
        elif event in _CHANGES:
            given = args[: _CHANGES[event]]
            folder = args[_CHANGES[event]] if event in ("os.remove", "os.rmdir") else None
            for path in given:
                if self.at(event, path, folder):
                    break

    def at(self, event: str, path: Any, folder: Any = None) -> bool:
        """A point, if `path` is under the root."""
        if isinstance(path, int):
            return False
        name = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0 and not os.path.isabs(name):
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        if not os.path.abspath(name).startswith(self.root):
            return False
        self.here(f"{event} {name}")
        return True

    def here(self, what: str) -> None:
        """A point, wherever it is."""
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
        self.names.append(what)


def _watch(points: Points) -> None:
    """Make every change a point; in a child that does nothing else afterwards."""
    import pandas as pd
    import safetensors.torch

    from graticule.hooks import replacing

    sys.addaudithook(points)
    _halved(points, safetensors.torch, "serialize_file", 1)
    _halved(points, pd.DataFrame, "to_parquet", 1)
    exchange = replacing.exchange

    def watched(one: Path, other: Path) -> bool:
        points.at("exchange", one)
        done = exchange(one, other)
        points.at("exchanged", one)
        return done

    replacing.exchange = watched
    _requests(points)


def _requests(points: Points) -> None:
    """Points before a request is sent and after its answer has begun, for those of huggingface_hub."""
    from huggingface_hub import get_session

    client = type(get_session())
    send = client.send

    def watched(self: Any, request: Any, **kwargs: Any) -> Any:
        points.here(f"before {request.method} {request.url}")
        answer = send(self, request, **kwargs)
        points.here(f"after {request.method} {request.url}")
        return answer

    client.send = watched


def _halved(points: Points, module: Any, name: str, place: int) -> None:
    """Points before a writer, with half of its file written, and after it."""
    writer = getattr(module, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        path = args[place]
        points.at(f"{name}, before", path)
        out = writer(*args, **kwargs)
        if os.path.exists(os.fspath(path)):
            whole = Path(path).read_bytes()
            os.truncate(path, len(whole) // 2)
            points.at(f"{name}, half", path)
            Path(path).write_bytes(whole)
        points.at(f"{name}, after", path)
        return out

    setattr(module, name, watched)


class Outcome:
    """How a child ended."""

    def __init__(self, killed: bool, error: str, points: int) -> None:
        self.killed, self.error, self.points = killed, error, points


def in_child(work: Callable[[], Any], root: Path, fatal: int | None = None, watch: bool = True) -> Outcome:
    """Run `work` in a forked child that is killed at point `fatal`, counted from 0."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(work, Points(root, fatal), writing, watch)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Outcome(True, "", 0)
    count, _, error = told.partition("\n")
    return Outcome(False, error, int(count or 0))


def _child(work: Callable[[], Any], points: Points, writing: int, watch: bool) -> None:
    error = ""
    if not os.environ.get("KILLS_DEBUG"):
        for stream in (1, 2):  # bars and summaries
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    try:
        if watch:
            _watch(points)
        work()
    except BaseException as problem:
        error = f"{type(problem).__name__}: {problem}"
        if os.environ.get("KILLS_DEBUG"):
            error += "\n" + traceback.format_exc()
    os.write(writing, f"{points.count}\n{error}"[:60_000].encode())
    os._exit(0)


def leftovers(root: Path) -> list[str]:
    """Hidden things under `root`, which no finished call leaves."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.name.startswith("."))
