"""Starting a server that is another program."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

__all__ = ["KEY", "running"]

KEY = "sk-local"


@contextmanager
def running(command: Sequence[Any]) -> Iterator[str]:
    """Run a command that starts a server whose key is KEY, and return the server's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    here = ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, *here], env={**os.environ, "DO_NOT_TRACK": "1"}, **quiet)
    try:
        _wait_for(f"{url}/health", process)
        yield url
    finally:
        process.terminate()
        process.wait(100)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1_800):
        assert process.poll() is None, "the server ended"
        try:
            urlopen(url).close()
        except (URLError, ConnectionError):  # another program has no event to wait for
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the server did not start")
