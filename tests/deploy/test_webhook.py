"""The webhook as a real process behind TLS, asked as an API server asks it."""

import asyncio
import contextlib
import functools
import io
import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.config import release
from coatcheck_sidecar.core.inject import inject
from coatcheck_sidecar.core.inject_choice import Choice
from coatcheck_sidecar.core.inject_edits import apply
from coatcheck_sidecar.servers import webhook as webhook_module
from coatcheck_sidecar.servers.certificates import write_certificate
from coatcheck_sidecar.servers.webhook import Certificate
from examples.demo.processes import LOOPBACK, Child, free_ports, python
from tests.deploy.manifests import EXAMPLES, bare, documents, templates
from tests.deploy.reviews import Json, patched, pod, review, wanted

NAME: Final = "coatcheck-webhook.coatcheck.svc"
STORE: Final = "s3://bucket/prefix"
IMAGE: Final = "registry.example/coatcheck:0.1.0"
CHOICE: Final = Choice(store=STORE, image=IMAGE, version=release())
RATE_PER_S: Final = 200
RATE_S: Final = 10
CONNECTIONS: Final = 8
"""An API server keeps a few open; each asks one thing after another."""
START_S_MAX: Final = 15.0


@functools.cache
def trusting(bundle: str) -> ssl.SSLContext:
    """One context a bundle: connections are kept by it."""
    return ssl.create_default_context(cadata=bundle)


@dataclass
class Server:
    """`folder` has its certificate, and what it said."""

    folder: Path
    port: int
    child: Child
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"https://{LOOPBACK}:{self.port}"

    def trust(self) -> ssl.SSLContext:
        return trusting((self.folder / "ca.crt").read_text())

    @property
    def said(self) -> str:
        return self.child.last_words(10_000_000)

    async def ask(self, body: Any, *, content_type: str = "application/json") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        url = f"{self.url}/mutate?timeout=5s"
        async with self.session.post(
            url, data=io.BytesIO(data), headers=headers, ssl=self.trust(), server_hostname=NAME
        ) as reply:
            text = await reply.text()
            return reply.status, json.loads(text) if reply.status == 200 else text

    async def mutated(self, template: Json) -> Json:
        """The pod as it is made."""
        status, said = await self.ask(review(template))
        assert status == 200, said
        assert said["response"]["allowed"] is True, said
        return patched(template, said["response"])


@asynccontextmanager
async def serving(folder: Path, *more: str) -> AsyncIterator[Server]:
    (port,) = free_ports(1)
    argv = [*python("coatcheck", "webhook"), "--store", STORE, "--image", IMAGE]
    argv += ["--tls", str(folder), "--self-signed", NAME, "--listen", f"{LOOPBACK}:{port}", *more]
    child = Child(argv, env={}, log=folder.parent / "webhook.log")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        server = Server(folder, port, child, session)
        try:
            await _until_ready(server)
            yield server
        finally:
            child.kill()


async def _until_ready(server: Server) -> None:
    end_s = time.monotonic() + START_S_MAX
    while True:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            if await probed(server, "/readyz") == 200:
                return
        assert time.monotonic() < end_s, server.said
        await asyncio.sleep(0.05)


async def probed(server: Server, path: str) -> int:
    """As the kubelet asks: it checks no certificate."""
    async with server.session.get(server.url + path, ssl=False) as reply:
        return reply.status


def asking(name: str) -> Json:
    """An example's pod, as it was before the sidecar: annotated, and made by its controller."""
    ((_, template),) = templates(documents(EXAMPLES / f"{name}.yaml"))
    made = bare(template)
    metadata = {**made["metadata"], "generateName": "made-", "annotations": wanted()}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made["spec"]}


async def test_the_patch_makes_what_inject_makes(tmp_path: Path) -> None:
    async with serving(tmp_path / "tls") as server:
        for name in ("deployment", "statefulset", "job", "served"):
            template = asking(name)
            made = await server.mutated(template)
            assert made == apply(template, inject(template, CHOICE).edits) != template
            assert await server.mutated(made) == made
        assert "injected" in server.said


async def test_what_is_not_annotated_comes_back_as_it_was(tmp_path: Path) -> None:
    async with serving(tmp_path / "tls") as server:
        for name in ("deployment", "statefulset", "job", "served"):
            template = asking(name)
            del template["metadata"]["annotations"]
            _, said = await server.ask(review(template, uid=name))
            assert said["response"] == {"uid": name, "allowed": True}


async def test_bad_reviews_get_a_clear_answer_and_stop_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "tls") as server:
        for body, why in (
            (b"{", "not JSON"),
            (b"\xff", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b"[]", "no JSON object"),
            ({"apiVersion": "admission.k8s.io/v1beta1"}, "not admission.k8s.io/v1"),
            (review(None), "request.object is no pod"),
        ):
            status, text = await server.ask(body)
            assert (status, why in text) == (400, True), text
        status, _ = await server.ask(review(pod()), content_type="text/plain")
        assert status == 415
        big = review(pod(annotations={"x": "y" * webhook_module.REVIEW_BYTES_MAX}))
        assert (await server.ask(big))[0] == 413
        assert await probed(server, "/mutate") == 405
        assert await probed(server, "/metrics") == 404
        assert (await server.ask(review(pod())))[0] == 200
        assert "Traceback" not in server.said


@pytest.mark.parametrize(("refused", "allowed"), [("deny", False), ("allow", True)])
async def test_a_pod_that_cannot_have_it_fails_as_configured(
    refused: str, allowed: bool, tmp_path: Path
) -> None:
    async with serving(tmp_path / "tls", "--refused", refused) as server:
        windows = pod(annotations=wanted(), os={"name": "windows"})
        _, said = await server.ask(review(windows))
        response = said["response"]
        assert response["allowed"] is allowed
        assert "patch" not in response
        told = response["warnings"][0] if allowed else response["status"]["message"]
        assert "indows" in told


async def test_a_stranger_to_the_bundle_is_not_believed(tmp_path: Path) -> None:
    async with serving(tmp_path / "tls") as server:
        write_certificate(tmp_path / "other", [NAME], now_ms=SystemClock().wall_ms())
        trust = ssl.create_default_context(cafile=str(tmp_path / "other" / "ca.crt"))
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await server.session.get(f"{server.url}/livez", ssl=trust, server_hostname=NAME)
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await server.session.get(
                f"{server.url}/livez", ssl=server.trust(), server_hostname="other.svc"
            )


@pytest.mark.slow
async def test_a_new_certificate_is_taken_in_while_it_serves(tmp_path: Path) -> None:
    """As the kubelet brings it: another folder behind a link. First a key that doesn't fit."""
    first, second, tls = tmp_path / "1", tmp_path / "2", tmp_path / "tls"
    for folder in (first, second):
        write_certificate(folder, [NAME], now_ms=SystemClock().wall_ms())
    point(tls, first)
    async with serving(tls) as server:
        assert (await server.ask(review(pod())))[0] == 200
        torn = tmp_path / "torn"
        torn.mkdir()
        for name, source in (("tls.crt", second), ("tls.key", first), ("ca.crt", first)):
            (torn / name).write_bytes((source / name).read_bytes())
        point(tls, torn)
        await until_said(server, "certificate_unfit")
        async with aiohttp.ClientSession() as server.session:
            assert (await server.ask(review(pod())))[0] == 200
        point(tls, second)
        await until_said(server, "certificate_renewed")
        async with aiohttp.ClientSession() as server.session:
            assert (await server.ask(review(pod())))[0] == 200


def point(link: Path, folder: Path) -> None:
    aside = link.with_suffix(".new")
    aside.symlink_to(folder)
    aside.replace(link)


async def until_said(server: Server, word: str) -> None:
    async with asyncio.timeout(3 * webhook_module.LOOK_S):
        while word not in server.said:  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.05)


def test_a_certificate_is_read_once_and_taken_in_when_it_changes(tmp_path: Path) -> None:
    write_certificate(tmp_path, [NAME], now_ms=SystemClock().wall_ms())
    certificate = Certificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert not certificate.refresh()
    with pytest.raises(FileExistsError):
        write_certificate(tmp_path, [NAME], now_ms=SystemClock().wall_ms())
    for path in list(tmp_path.iterdir()):
        path.unlink()
    write_certificate(tmp_path, [NAME], now_ms=SystemClock().wall_ms())
    assert (tmp_path / "tls.key").stat().st_mode & 0o777 == 0o600
    assert certificate.refresh()
    assert not certificate.refresh()
    (tmp_path / "tls.key").unlink()
    with pytest.raises(FileNotFoundError):
        certificate.refresh()


async def test_sigterm_lets_the_nodes_learn_of_it_first(tmp_path: Path) -> None:
    async with serving(tmp_path / "tls") as server:
        server.child.send(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert await probed(server, "/readyz") == 503
        assert await probed(server, "/livez") == 200
        assert (await server.ask(review(pod())))[0] == 200
        async with asyncio.timeout(15):
            while server.child.is_alive:  # noqa: ASYNC110 - a process tells nobody
                await asyncio.sleep(0.1)


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "coatcheck", "webhook", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)


def test_it_writes_a_certificate_and_ends(tmp_path: Path) -> None:
    made = run("--tls", str(tmp_path / "t"), "--self-signed", NAME, "--write-only")
    assert (made.returncode, sorted(path.name for path in (tmp_path / "t").iterdir())) == (
        0,
        ["ca.crt", "tls.crt", "tls.key"],
    )
    again = run("--tls", str(tmp_path / "t"), "--self-signed", NAME, "--write-only")
    assert again.returncode == 1
    assert "is there already" in again.stderr


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        ((), 2, "which store?"),
        (("--write-only",), 2, "for which --self-signed NAME?"),
        (("--store", STORE, "--listen", "nowhere"), 2, "must be host:port"),
        (("--store", STORE, "--tls", "/nowhere"), 1, "/nowhere/tls.crt"),
    ],
)
def test_what_keeps_it_from_starting_is_said(words: tuple[str, ...], status: int, why: str) -> None:
    ran = run(*words)
    assert ran.returncode == status, ran.stderr
    assert why in ran.stderr


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(90)
async def test_it_bears_200_pods_a_second(tmp_path: Path) -> None:
    async with serving(tmp_path / "tls") as server:
        body = json.dumps(review(asking("served"))).encode()
        began_s = time.monotonic()
        due = iter(range(RATE_PER_S * RATE_S))
        took_s: list[float] = []

        async def ask_on() -> None:
            for number in due:
                await asyncio.sleep(began_s + number / RATE_PER_S - time.monotonic())
                asked_s = time.monotonic()
                status, said = await server.ask(body)
                took_s.append(time.monotonic() - asked_s)
                assert (status, "patch" in said["response"]) == (200, True)

        await asyncio.gather(*(ask_on() for _ in range(CONNECTIONS)))
        whole_s = time.monotonic() - began_s
        took_s.sort()
        rate = len(took_s) / whole_s
        p99_s = took_s[int(len(took_s) * 0.99)]
        print(f"{rate:.0f} a second, p50 {took_s[len(took_s) // 2]:.4f} s, p99 {p99_s:.4f} s")
        assert rate >= RATE_PER_S * 0.98
        assert p99_s < 0.5
