"""`qwen-rerank serve`: serve a scorer over HTTP with Ray Serve."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Annotated

import typer

from qwen_rerank.batch.ray_data import imported_ray
from qwen_rerank.cli.options import ScorerKind, ScorerMaker, takes_scorer_options
from qwen_rerank.cli.output import Output

__all__ = ["serve"]


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
        max_replicas=max_replicas or replicas,
        num_gpus=gpus,
        warm_up=ctx.params["scorer"] in (ScorerKind.LOCAL, ScorerKind.EMBEDDED),
    )
    with output.status("Starting Ray Serve …"):
        ray.init(
            address="local",
            log_to_driver=False,
            logging_level=logging.WARNING,
            _metrics_export_port=metrics_port,
        )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with output.status("Starting the scorer …"):
            ray_serve.start(http_options={"host": host, "port": port})
            ray_serve.run(app, name="qwen-rerank")
        output.note(f"Serving {model} at http://{host}:{port}/v1/rerank. Press Ctrl-C to stop.")
        if not keys():
            output.note(f"No key is needed. Set {KEY} to ask for one.")
        stop.wait()
    finally:
        ray_serve.shutdown()
        ray.shutdown()
