"""The admission webhook: TLS, `POST /mutate`, and the kubelet's probes.

A certificate is made anew now and then (cert-manager writes the secret, the kubelet the volume):
it is taken in while the server runs, and the old one is kept while the new one can't be read.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coatcheck_sidecar import logs
from coatcheck_sidecar.core.admission import BadReview, Verdict, answer, decide, parse
from coatcheck_sidecar.core.inject_choice import Choice
from coatcheck_sidecar.ports import Clock
from coatcheck_sidecar.servers.admin import HttpServer

if TYPE_CHECKING:
    from aiohttp import web

REVIEW_BYTES_MAX: Final = 7 * 2**20
"""The API server takes requests of 3 MiB; a review holds its object and a little more."""
LOOK_S: Final = 5.0
"""How often the certificate's files are read. The kubelet takes a minute to bring a new one."""


class Certificate:
    """A chain and its key in files, and the context that serves them."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises `OSError` or `ssl.SSLError` for what can't be served."""
        self._files = (chain, key)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._digest = self._read()
        self.context.load_cert_chain(chain, key)

    def refresh(self) -> bool:
        """Take in what changed; new connections get it. Raises as the constructor does."""
        digest = self._read()
        if digest == self._digest:
            return False
        chain, key = self._files
        # A pair that doesn't match must not spoil the context that serves.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(chain, key)
        self.context.load_cert_chain(chain, key)
        self._digest = digest
        return True

    def _read(self) -> bytes:
        return sha256(b"\0".join(path.read_bytes() for path in self._files)).digest()


class Webhook:
    """Answers reviews."""

    def __init__(self, choice: Choice, *, denies: bool) -> None:
        """`choice` holds where pods say nothing; for `denies` see `decide`."""
        self._choice, self._denies = choice, denies
        self.is_leaving = False

    def application(self) -> "web.Application":
        """`/mutate`, `/livez`, `/readyz`."""
        from aiohttp import web

        app = web.Application(client_max_size=REVIEW_BYTES_MAX)
        app.router.add_post("/mutate", self._mutate)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        return app

    async def _mutate(self, request: "web.Request") -> "web.Response":
        from aiohttp import web

        if request.content_type != "application/json":
            why = f"Content-Type is {request.content_type}, not application/json\n"
            return web.Response(status=415, text=why)
        try:
            review = parse(json.loads(await request.read()))
        except (BadReview, ValueError, RecursionError) as error:
            is_json = isinstance(error, BadReview)
            why = str(error) if is_json else f"the body is not JSON: {error}"
            logs.write("warning", "bad_review", error=why)
            return web.Response(status=400, text=f"{why}\n")
        verdict = decide(review, self._choice, denies=self._denies)
        body = answer(review, verdict)
        _tell(verdict, namespace=review.namespace, pod=review.name)
        return web.json_response(body)

    async def _livez(self, _request: "web.Request") -> "web.Response":
        from aiohttp import web

        return web.Response(text="ok\n")

    async def _readyz(self, _request: "web.Request") -> "web.Response":
        from aiohttp import web

        if self.is_leaving:
            return web.Response(status=503, text="on its way out\n")
        return web.Response(text="ok\n")


def _tell(verdict: Verdict, *, namespace: str, pod: str) -> None:
    if verdict.refused:
        name = "denied" if verdict.is_denied else "left_as_it_is"
        logs.write("warning", name, namespace=namespace, pod=pod, why=verdict.refused)
    elif verdict.patch:
        logs.write("info", "injected", namespace=namespace, pod=pod, edits=len(verdict.patch))


@asynccontextmanager
async def webhook_server(
    webhook: Webhook, certificate: Certificate, *, clock: Clock, host: str, port: int
) -> AsyncIterator[HttpServer]:
    """Answers while the block lasts. Raises `OSError`."""
    server = HttpServer(webhook.application(), host=host, port=port, tls=certificate.context)
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(_keep_fresh(certificate.refresh, clock))
        try:
            await server.start()
            yield server
        finally:
            looking.cancel()
            await server.close()


async def _keep_fresh(refresh: Callable[[], bool], clock: Clock) -> None:
    while True:
        await clock.sleep(LOOK_S)
        try:
            if refresh():
                logs.write("info", "certificate_renewed")
        except (OSError, ssl.SSLError) as error:
            logs.write("error", "certificate_unfit", error=str(error))
