"""`qwen-rerank serve`: serve a scorer over HTTP with Ray Serve."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from qwen_rerank.batch.ray_data import imported_ray
from qwen_rerank.cli.options import ScorerKind, ScorerMaker, takes_scorer_options
from qwen_rerank.cli.output import Output
from qwen_rerank.errors import InvalidInputError, QwenRerankError

__all__ = ["serve"]

_NAME = "qwen-rerank"
_CPUS = 0.1
"""How many CPUs a replica reserves: few, as it usually waits for a GPU or a service."""


@takes_scorer_options
def serve(
    ctx: typer.Context,
    make_scorer: ScorerMaker,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 for all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The port to listen on.")] = 8000,
    replicas: Annotated[
        int, typer.Option(min=1, help="The least number of replicas, each with a model.")
    ] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="The most, if requests wait; by default the least.")
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="How many GPUs a replica needs.")] = 0,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="The port of Prometheus metrics.")
    ] = None,
) -> None:
    """Serve a scorer over HTTP until you stop it.

    Clients need one of the keys in QWEN_RERANK_SERVE_KEY, separated by commas, if it is set.
    """
    output: Output = ctx.obj
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = imported_ray()
    from ray import serve as ray_serve

    from qwen_rerank.batch.serving import KEY, application, keys

    with make_scorer() as example:
        model = example.model
    app = application(
        make_scorer,
        min_replicas=replicas,
        max_replicas=max_replicas,
        num_cpus=_CPUS,
        num_gpus=gpus,
        warm_up=ctx.params["scorer"] in (ScorerKind.LOCAL, ScorerKind.EMBEDDED),
    )
    _check_free("--port", host, port)
    if metrics_port is not None:
        _check_free("--metrics-port", "0.0.0.0", metrics_port)
    try:
        with output.status("Starting Ray Serve …"):
            ray.init(
                address="local",
                log_to_driver=False,
                logging_level=logging.WARNING,
                _metrics_export_port=metrics_port,
            )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # Ray has set a handler of its own
        _check_room(ray.cluster_resources(), replicas, gpus)
        with output.status("Starting the scorer …"):
            ray_serve.start(http_options={"host": host, "port": port})
            try:
                ray_serve.run(app, name=_NAME)
            except RuntimeError as error:
                (deployment,) = ray_serve.status().applications[_NAME].deployments.values()
                raise QwenRerankError(
                    f"The scorer could not be started: {_cause(deployment.message)}",
                    remedy="The logs are in /tmp/ray/session_latest/logs/serve.",
                ) from error
        output.note(f"Serving {model} at http://{host}:{port}/v1/rerank. Press Ctrl-C to stop.")
        if not keys():
            output.note(_without_key(host, KEY))
        while True:
            signal.pause()
    finally:
        try:
            ray_serve.shutdown()
        finally:
            ray.shutdown()


def _check_free(option: str, host: str, port: int) -> None:
    """Raise unless the port is free: Ray Serve shares a port, so another server gets half of it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        remedy = f"Pass another {option}, or stop the program that uses it."
        if error.errno != errno.EADDRINUSE:
            remedy = f"Pass another {option}, or an address of this machine as --host."
        raise InvalidInputError(
            f"Cannot listen on port {port} of {host}: {error.strerror or error}.", remedy=remedy
        ) from error


def _check_room(resources: Mapping[str, float], replicas: int, gpus: float) -> None:
    """Raise if this machine can't hold the replicas: Ray Serve would wait for room forever."""
    for name, each in (("GPU", gpus), ("CPU", _CPUS)):
        needed, available = replicas * each, resources.get(name, 0)
        if needed > available:
            raise InvalidInputError(
                f"This machine has too few {name}s for --replicas {replicas}: {needed:g} needed, "
                f"{available:g} available.",
                remedy="Pass a smaller --gpus or --replicas.",
            )


def _cause(message: str) -> str:
    """Return the last line of a traceback, which names the error."""
    *_, last = message.strip().splitlines() or ["for an unknown reason."]
    return last.strip()


def _without_key(host: str, name: str) -> str:
    """Return what to know about a server that needs no key."""
    remedy = f"Set {name} to ask for one."
    if host in ("localhost", "::1") or host.startswith("127."):
        return f"No key is needed. {remedy}"
    return f"Warning: it can be used from other machines, and no key is needed. {remedy}"
