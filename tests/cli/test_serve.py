"""`qwen-rerank serve`: what it refuses before it starts; tests/batch has the server itself."""

from __future__ import annotations

import socket

import pytest

from qwen_rerank import InvalidInputError
from tests.cli.conftest import Cli

pytest.importorskip("ray")

pytestmark = pytest.mark.filterwarnings("default")  # importing Ray Serve warns


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_port_in_use_is_refused_also_if_it_could_be_shared(cli: Cli, option: str) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        outcome = cli("serve", "-s", "embedded", option, port)
    assert outcome.code == 2
    assert f"Cannot listen on port {port}" in outcome.err
    assert f"Pass another {option}" in outcome.err


def test_an_address_of_another_machine_is_refused(cli: Cli) -> None:
    outcome = cli("serve", "-s", "embedded", "--host", "203.0.113.7")
    assert outcome.code == 2
    assert "an address of this machine as --host" in outcome.err


def test_an_empty_key_does_not_open_the_server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_RERANK_SERVE_KEY", "")
    outcome = cli("serve", "-s", "embedded")
    assert outcome.code == 3
    assert "QWEN_RERANK_SERVE_KEY is empty" in outcome.err


def test_other_machines_without_a_key_are_a_warning() -> None:
    from qwen_rerank.cli.serve import _without_key

    assert _without_key("127.0.0.1", "KEY") == "No key is needed. Set KEY to ask for one."
    assert _without_key("0.0.0.0", "KEY").startswith("Warning")


def test_replicas_that_never_fit_are_refused() -> None:
    from qwen_rerank.cli.serve import _check_room

    _check_room({"CPU": 2.0, "GPU": 1.0}, replicas=2, gpus=0.5)
    for replicas, gpus, message in (
        (1, 1.0, "too few GPUs for --replicas 1: 1 needed, 0 available"),
        (21, 0, "too few CPUs for --replicas 21: 2.1 needed, 2 available"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            _check_room({"CPU": 2.0}, replicas, gpus)
