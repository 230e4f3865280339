"""A payments provider: it takes its time, and does exactly what it is told, as often as it is told.

    python -m examples.demo.payments --port 8080 --ledger ledger.jsonl --keys honour

With `--keys honour` a second request under the same `Idempotency-Key` gets the first one's answer.
With `--keys ignore` it is another charge, as it is with most of the world's servers.
A client that hangs up changes nothing: what was asked for is done.
"""

import argparse
import asyncio
import random
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Final

from aiohttp import web

from examples.demo.ledger import Charge, Ledger
from examples.demo.processes import LOOPBACK

BEFORE_S_MAX: Final = 0.15
"""From a request to its charge: a client killed in between has been charged nevertheless."""
AFTER_S_MAX: Final = 0.15
"""From a charge to its answer: a client killed in between never hears of it."""
SETTLE_S: Final = 1.0
"""A charge that is not visible this long after it was sent will not be made."""


class Payments:
    """The routes, over one ledger."""

    def __init__(self, ledger: Ledger, *, honours_keys: bool, chance: random.Random) -> None:
        self._ledger = ledger
        self._honours_keys = honours_keys
        self._chance = chance
        self._under_key: dict[str, asyncio.Lock] = {}

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [web.post("/charges", self._post_charge), web.get("/charges", self._get_charges)]
        )
        return app

    async def _post_charge(self, request: web.Request) -> web.Response:
        body = await request.json()
        ref, cents = str(body["ref"]), int(body["cents"])
        key, by = request.headers.get("Idempotency-Key"), request.headers.get("User-Agent", "")
        await asyncio.sleep(self._chance.uniform(0, BEFORE_S_MAX))
        if key is None or not self._honours_keys:
            charge = self._ledger.add(ref, cents, key=key, by=by)
        else:
            charge = await self._charge_once(ref, cents, key=key, by=by)
        await asyncio.sleep(self._chance.uniform(0, AFTER_S_MAX))
        return web.json_response(asdict(charge), status=201)

    async def _charge_once(self, ref: str, cents: int, *, key: str, by: str) -> Charge:
        async with self._under_key.setdefault(key, asyncio.Lock()):
            known = self._ledger.under(key)
            charge = known or self._ledger.add(ref, cents, key=key, by=by)
        if (charge.ref, charge.cents) != (ref, cents):
            raise web.HTTPUnprocessableEntity(text=f"{key} was used for {charge.ref}")
        return charge

    async def _get_charges(self, request: web.Request) -> web.Response:
        charges = self._ledger.of(request.query["ref"])
        return web.json_response({"charges": [asdict(charge) for charge in charges]})


async def serve(app: web.Application, port: int) -> None:
    """Until SIGTERM."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--keys", choices=("honour", "ignore"), default="honour")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ledger = Ledger(options.ledger)
    chance = random.Random(options.seed)
    payments = Payments(ledger, honours_keys=options.keys == "honour", chance=chance)
    asyncio.run(serve(payments.application(), options.port))
    ledger.close()


if __name__ == "__main__":
    main()
