"""What does a caller see when the service or the network fails?

    python benchmarks/faults.py [--json PATH] [--peers PYTHON]

The loopback service of the tests fails in each way that tests/contract has a row for, once per
call, and every client in turn asks it to rank the same documents. A call ends in one of four ways:

- ranked: the client repeated the request and returned the right ranking.
- clear error: an error that the client, its SDK or its HTTP library raises on purpose.
- raw error: one that Python raises where code did not expect the response: KeyError, TypeError,
  AttributeError, a JSON decoding error and the like.
- silent: the client returned something else than the right ranking, such as an empty list.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rig.clients import OURS, PEERS
from rig.figures import table
from rig.peers import add_peers_option, available_peers
from rig.worker import OUTCOMES, Outcomes, Worker
from rig.workload import KEY
from tqdm import tqdm

from qwen_rerank.testing.faults import babbles, breaks_off, drops
from qwen_rerank.testing.loopback import Fault, LoopbackDashScope
from tests.contract import test_bad_responses as responses
from tests.contract import test_error_responses as errors
from tests.contract.services import DASHSCOPE


class Failure(NamedTuple):
    """One way in which a request fails."""

    name: str
    fault: Fault


def failures() -> Iterator[Failure]:
    """Every row of the tests that is about one response of DashScope, and lost connections."""
    groups = (
        responses.whatever_the_dialect,
        responses.of_the_dialect,
        errors.retried_rows,
        errors.final_rows,
    )
    for row in (row for group in groups for row in group(DASHSCOPE)):
        # Rows with options are about options of ours, and those with two faults about retries.
        if len(row.faults) == 1 and not row.options:
            yield Failure(row.name, row.faults[0])
    for fault in (drops, babbles, breaks_off):
        yield Failure(fault.__name__, fault)


def main() -> None:
    options = parse_arguments()
    outcomes = outcomes_of_calls(available_peers(options))
    print(as_table(outcomes))
    if options.json:
        options.json.write_text(json.dumps(outcomes, indent=1, ensure_ascii=False) + "\n")


def outcomes_of_calls(peers: Path | None) -> Outcomes:
    """Let every client meet every fault."""
    pythons = {name: Path(sys.executable) for name in OURS}
    if peers:
        pythons |= dict.fromkeys(PEERS, peers)
    outcomes: Outcomes = {}
    with ExitStack() as processes:
        server = processes.enter_context(LoopbackDashScope(key=KEY))
        workers = {
            name: processes.enter_context(Worker(python, name, server.base_url))
            for name, python in pythons.items()
        }
        for failure in tqdm(list(failures()), unit="fault"):
            for name, worker in workers.items():
                server.faults.clear()
                server.faults.append(failure.fault)
                outcomes.setdefault(name, {})[failure.name] = worker.ask("call_with_fault")
    return outcomes


def as_table(outcomes: Outcomes) -> str:
    """One row per client: how many calls ended in each way."""
    counts = {
        client: Counter(each["outcome"] for each in seen.values())
        for client, seen in outcomes.items()
    }
    rows = ([client, *(count[each] for each in OUTCOMES)] for client, count in counts.items())
    return table(["", *OUTCOMES], rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to save every outcome")
    add_peers_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
