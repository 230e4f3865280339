"""The live store: a directory, MiniStack, and stores that are none."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from coatcheck_sidecar.cli.doctor_store import (
    budget_findings,
    clock_findings,
    of_store,
    wider,
)
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.config import Config
from coatcheck_sidecar.core.budget import Rate
from coatcheck_sidecar.core.inject_choice import Finding
from coatcheck_sidecar.stores.url import open_store
from tests.contract.faults import CarelessS3, answering, error, tag
from tests.servers import ACCESS_KEY, REGION, SECRET_KEY, ministack

MB = 1_000_000.0


async def found(config: Config, environ: Mapping[str, str] | None = None) -> dict[str, Finding]:
    return {one.code: one async for one in of_store(config, clock=SystemClock(), environ=environ)}


def config(folder: Path, store: str) -> Config:
    return replace(Config(), store=store, data=folder / "data")


async def test_a_directory_is_a_fence_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    findings = await found(config(tmp_path, store.as_uri()))
    assert set(findings) == {"budget"}
    assert findings["budget"].severity == "info"
    assert [path for path in store.rglob("*") if path.is_file()] == []


async def test_a_store_in_the_data_folder_fences_nobody(tmp_path: Path) -> None:
    store = (tmp_path / "data" / "store").as_uri()
    assert set(await found(config(tmp_path, store))) == {"budget", "unfenced"}


async def test_a_bucket_whose_credentials_reach_everywhere(tmp_path: Path) -> None:
    with ministack() as server:
        bucket = server.make_bucket("doctor")
        reaching = await found(config(tmp_path, f"{bucket}/team/agents"), server.env)
        assert set(reaching) == {"budget", "reach-list", "reach-write"}
        assert "could not be deleted" not in reaching["reach-write"].what
        assert set(await found(config(tmp_path, bucket), server.env)) == {"budget"}
        store = open_store(bucket, clock=SystemClock(), environ=server.env)
        names = [entry.name for entry in await store.list("")]
        assert [name for name in names if "clock/" not in name] == []
        missing = await found(config(tmp_path, "s3://no-such-bucket/x"), server.env)
        assert set(missing) == {"store-away"}
        assert "NoSuchBucket" in missing["store-away"].what


class Guarded(CarelessS3):
    """Minds conditions, and lets nobody out of the prefix; may keep what is deleted."""

    def __init__(self, *, keeps: bool = False) -> None:
        super().__init__()
        self.keeps = keeps

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not request.path.startswith("/bucket/prefix/"):
            return error(403, "AccessDenied")
        if self.keeps and request.method == "DELETE":
            return error(403, "AccessDenied")
        return await super().handle(request)


@asynccontextmanager
async def guarded(handler: CarelessS3) -> AsyncIterator[dict[str, str]]:
    async with answering(handler.handle) as endpoint:
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }


URL = "s3://bucket/prefix"


async def test_credentials_that_end_at_the_prefix_are_well(tmp_path: Path) -> None:
    async with guarded(Guarded()) as environ:
        findings = await found(config(tmp_path, URL), environ)
    # That server always says the same time.
    assert set(findings) == {"budget", "clock-off"}


async def test_a_store_that_ignores_conditions_is_no_fence(tmp_path: Path) -> None:
    for careless in (CarelessS3(ignores=True), CarelessS3(is_unlocked=True)):
        async with guarded(careless) as environ:
            findings = await found(config(tmp_path, URL), environ)
        assert set(findings) == {"store-no-fence"}
        assert "it can't fence" in findings["store-no-fence"].what


async def test_deletes_that_are_refused(tmp_path: Path) -> None:
    async with guarded(Guarded(keeps=True)) as environ:
        assert "store-away" in await found(config(tmp_path, URL), environ)


class Deaf(Guarded):
    """Says that it deleted, and did not, but for objects of the race."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE" and "/probe/doctor-" in request.path:
            return web.Response(status=204, headers={"ETag": tag(b"")})
        return await super().handle(request)


async def test_deletes_that_do_nothing(tmp_path: Path) -> None:
    async with guarded(Deaf()) as environ:
        assert "store-no-delete" in await found(config(tmp_path, URL), environ)


@pytest.mark.parametrize(
    ("url", "code"),
    [("ftp://x", "store-url"), ("s3://b", "store-url"), ("file:///proc/none", "store-url")],
)
async def test_a_store_that_cannot_be_opened(tmp_path: Path, url: str, code: str) -> None:
    assert set(await found(config(tmp_path, url), {})) == {code}


async def test_a_directory_on_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import coatcheck_sidecar.stores.directory as directory

    monkeypatch.setattr(directory, "network_file_system", lambda _: "nfs4")
    assert set(await found(config(tmp_path, tmp_path.as_uri()))) == {"store-no-fence"}


@pytest.mark.parametrize(
    ("rate", "grace_s", "code"),
    [
        (Rate(10 * MB, 0.05), 30.0, "budget"),
        (Rate(0.03 * MB, 0.05), 30.0, "budget-small"),
        (Rate(10 * MB, 1.0), 4.0, "budget-none"),
    ],
)
def test_what_fits_into_the_grace(rate: Rate, grace_s: float, code: str) -> None:
    (one,) = budget_findings(rate, replace(Config(), grace_s=grace_s))
    assert one.code == code
    assert f"{grace_s:g} s" in one.what


def test_clocks() -> None:
    assert clock_findings(100_000, here_ms=105_000) == []
    (ahead,) = clock_findings(100_000, here_ms=160_000)
    assert "60 s ahead of" in ahead.what
    (behind,) = clock_findings(100_000, here_ms=90_000)
    assert "10 s behind" in behind.what


def test_the_same_bucket_without_its_prefix() -> None:
    assert wider("s3://b/p/q?region=x") == "s3://b?region=x"
    assert wider("s3://b") is None
    assert wider("file:///x/y") is None
