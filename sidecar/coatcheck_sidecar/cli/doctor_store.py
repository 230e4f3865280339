"""What the doctor asks of a live store: is it a fence, who else is let in, how fast is it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from coatcheck_sidecar.config import Config
from coatcheck_sidecar.core.budget import Link, Rate, allowed_bytes
from coatcheck_sidecar.core.doctor_pod import error, info, warning
from coatcheck_sidecar.core.drain import ROUND_TRIPS
from coatcheck_sidecar.core.inject_choice import Finding
from coatcheck_sidecar.engine.budget import PROBE_BYTES_MAX, SETTLE_S, Measured
from coatcheck_sidecar.ports import Clock, Store, StoreError, StoreUnfit
from coatcheck_sidecar.servers.view import is_unfenced
from coatcheck_sidecar.stores.encrypted import with_keys
from coatcheck_sidecar.stores.probe import probe
from coatcheck_sidecar.stores.url import open_store

SMALL_PUTS: Final = 5
"""They measure latency."""
BIG_PUTS: Final = 3
"""They measure goodput: three quarters of a megabyte, as a budget's own probes would be."""
BUDGET_BYTES_SMALL: Final = 1_048_576
"""With less the first state of a long chat is acknowledged only when it is remote."""
OFFSET_S_MAX: Final = 5.0
"""S3's clock is told in whole seconds, and asking takes a moment: less is none."""
MB: Final = 1_000_000.0


async def of_store(
    config: Config, *, clock: Clock, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Finding]:
    """Each finding as it comes; `environ` has the credentials, the process's own if absent."""
    try:
        store = open_store(config.store, clock=clock, environ=environ)
        store = with_keys(store, config.encryption_keys, clock=clock)
    except (ValueError, OSError) as why:
        yield error(
            "store-url",
            what=f"the store can't be opened: {why}",
            why="the sidecar doesn't start",
            mend="mend COATCHECK_STORE, or the file of COATCHECK_ENCRYPTION_KEYS",
        )
        return
    except StoreUnfit as unfit:
        yield _unfit(unfit)
        return
    try:
        async for finding in _of_open_store(store, config, clock=clock):
            yield finding
        async for finding in _reach(config.store, clock=clock, environ=environ):
            yield finding
    except StoreUnfit as unfit:
        yield _unfit(unfit)
    except StoreError as away:
        yield error(
            "store-away",
            what=str(away),
            why="nothing gets off the pod: guarded calls wait, and what is unshipped when the pod "
            "goes is lost. If it answered, it did not let these credentials in",
            mend="look at the endpoint, the region, the network policy and the role: it takes get, "
            "put, delete and list below the prefix",
        )
    finally:
        await store.close()


def _unfit(unfit: StoreUnfit) -> Finding:
    return error(
        "store-no-fence",
        what=str(unfit),
        why="two pods may own one run at once, and what must happen once may happen twice: the "
        "sidecar ends with status 78 as soon as it sees this",
        mend="take a store that honours If-Match and If-None-Match under a lock: S3, MinIO, "
        "SeaweedFS, or a directory on a local disk",
    )


async def _of_open_store(store: Store, config: Config, *, clock: Clock) -> AsyncIterator[Finding]:
    await probe(store, clock=clock)
    if is_unfenced(config.store, config.data):
        yield warning(
            "unfenced",
            what=f"the store {store.url} lies in the data folder",
            why="it dies with the pod, no other pod can go on with its runs, and it fences nobody: "
            "`once` holds on this node alone",
            mend="set COATCHECK_STORE to a bucket: s3://bucket/prefix",
        )
    rate = await measure(store, clock=clock)
    for finding in budget_findings(rate, config):
        yield finding
    name = f"probe/doctor-{clock.random_bytes(4).hex()}"
    await store.put(name, b"-")
    with suppress(StoreError):
        await store.delete(name)
    if await store.get(name) is not None:
        yield error(
            "store-no-delete",
            what=f"an object that was deleted is still there: {name}",
            why="markers of runs that went on stay for ever, and nothing is ever collected",
            mend="allow deletes below the prefix (s3:DeleteObject)",
        )
    for finding in clock_findings(await store.now_ms(), here_ms=clock.wall_ms()):
        yield finding


class _Unheard:
    """Implements `ports.Observer`: nobody scrapes a doctor."""

    def note(self, _event: str, /, **_fields: object) -> None: ...


async def measure(store: Store, *, clock: Clock) -> Rate:
    """Put a megabyte in all, and delete it. Raises `StoreError`."""
    link = Link()
    measured = Measured(store, link=link, clock=clock, observer=_Unheard())
    name = f"probe/doctor-{clock.random_bytes(4).hex()}"
    try:
        for size in (*([1] * SMALL_PUTS), *([PROBE_BYTES_MAX] * BIG_PUTS)):
            await measured.put(name, bytes(size))
    finally:
        with suppress(StoreError):
            await store.delete(name)
    return link.rate(now_s=clock.monotonic())


def budget_findings(rate: Rate, config: Config) -> list[Finding]:
    """What of a pod's unshipped work gets off it in its grace, at this rate."""
    allowed = allowed_bytes(
        rate,
        grace_left_s=config.grace_s,
        settle_s=SETTLE_S,
        interval_s=config.ship_interval_s,
        round_trips=ROUND_TRIPS,
        margin_s=config.margin_s,
    )
    told = (
        f"the store takes {rate.bytes_per_s / MB:.1f} MB/s, {rate.latency_s * 1000:.0f} ms a put: "
        f"of what is unshipped {allowed / MB:.1f} MB fit into a grace of {config.grace_s:g} s"
    )
    mend = "raise the grace (terminationGracePeriodSeconds and COATCHECK_GRACE_S), or bring the "
    mend += "store nearer"
    if allowed <= 0:
        why = "nothing that is acknowledged before it is remote can be shipped in time"
        return [error("budget-none", what=told, why=why, mend=mend)]
    if allowed < BUDGET_BYTES_SMALL:
        why = "bigger states wait until they are remote: each such step takes as long as its upload"
        return [warning("budget-small", what=told, why=why, mend=mend)]
    return [info("budget", what=told, why="more than that is acknowledged only when it is remote")]


def clock_findings(store_ms: int, *, here_ms: int) -> list[Finding]:
    """How far this node's clock is from the store's."""
    offset_s = (here_ms - store_ms) / 1000
    if abs(offset_s) <= OFFSET_S_MAX:
        return []
    return [
        warning(
            "clock-off",
            what=f"this node's clock is {abs(offset_s):.0f} s "
            f"{'ahead of' if offset_s > 0 else 'behind'} the store's",
            why="ownership trusts no clock, but beyond 15 minutes S3 refuses every request, and "
            "times in logs don't agree",
            mend="let the node keep its time (NTP)",
        )
    ]


def wider(url: str) -> str | None:
    """The same store without its prefix; `None` if it has none, or is no bucket."""
    parts = urlsplit(url)
    if parts.scheme in ("file", "memory") or not parts.path.strip("/"):
        return None
    return parts._replace(path="").geturl()


async def _reach(
    url: str, *, clock: Clock, environ: Mapping[str, str] | None
) -> AsyncIterator[Finding]:
    """How far the credentials reach beyond the prefix: by trying, and tidying up."""
    bucket_url = wider(url)
    if bucket_url is None:
        return
    bucket = open_store(bucket_url, clock=clock, environ=environ)
    try:
        if await _may_list(bucket):
            yield warning(
                "reach-list",
                what=f"the credentials may list all of {bucket.url}",
                why="whoever takes over this pod sees the names of everybody's runs",
                mend="allow s3:ListBucket with the condition s3:prefix = the prefix and below",
            )
        name = f"coatcheck-doctor/{clock.random_bytes(8).hex()}"
        if await _may_write(bucket, name):
            left = "" if await _is_gone(bucket, name) else f"; {name} could not be deleted again"
            yield warning(
                "reach-write",
                what=f"the credentials may write anywhere in {bucket.url}{left}",
                why="whoever takes over this pod can change other tenants' runs, heads included",
                mend="allow s3:GetObject, s3:PutObject and s3:DeleteObject below the prefix alone",
            )
    finally:
        await bucket.close()


async def _may_list(bucket: Store) -> bool:
    try:
        await bucket.list("", limit=1)
    except StoreError:
        return False
    return True


async def _may_write(bucket: Store, name: str) -> bool:
    try:
        await bucket.put(name, b"A test of how far credentials reach. Safe to delete.")
    except StoreError:
        return False
    return True


async def _is_gone(bucket: Store, name: str) -> bool:
    try:
        await bucket.delete(name)
        return await bucket.get(name) is None
    except StoreError:
        return False
