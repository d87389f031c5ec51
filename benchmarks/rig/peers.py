"""The interpreter with the packages to compare with, as an option of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["add_peers_option", "available_peers"]

DEFAULT = Path(__file__).resolve().parents[2] / ".venv/peers/bin/python"


def add_peers_option(parser: argparse.ArgumentParser) -> None:
    """Add --peers to a benchmark's options."""
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="PYTHON",
        default=DEFAULT,
        help="the interpreter with the packages of peers.txt (.venv/peers/bin/python)",
    )


def available_peers(options: argparse.Namespace) -> Path | None:
    """Return the interpreter; None, and say so, if it does not exist."""
    peers: Path = options.peers
    if peers.exists():
        return peers
    print(f"{peers} does not exist: the peers are left out.", file=sys.stderr)
    return None
