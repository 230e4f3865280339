"""How a server with a ledger on disk runs as a process of its own."""

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from examples.demo.ledger import Ledger
from examples.demo.payments import serve


def run(description: str, make: Callable[[Ledger], web.Application]) -> None:
    """`--port`, `--ledger`; until SIGTERM."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    options = parser.parse_args()
    ledger = Ledger(options.ledger)
    asyncio.run(serve(make(ledger), options.port))
    ledger.close()
