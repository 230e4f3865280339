"""What an object store does when the answer is late, lost, or not what was hoped for."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
from aiohttp import web

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Store, StoreError, StoreRefused, StoreUnfit
from coatcheck_sidecar.stores.objects import Limits
from coatcheck_sidecar.stores.probe import probe
from tests.contract.faults import QUICK, CarelessS3, Cutter, answering, deaf, error, open_at
from tests.contract.store_suite import BIG
from tests.servers import SECRET_KEY, S3Server, ServerUnavailableError, free_ports, ministack

VERBS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("a"),
    "put": lambda store: store.put("a", b"x"),
    "create": lambda store: store.swap("a", b"x", expected=None),
    "swap": lambda store: store.swap("a", b"x", expected='"tag"'),
    "delete": lambda store: store.delete("a"),
    "list": lambda store: store.list(""),
    "now_ms": lambda store: store.now_ms(),
}
every_verb = pytest.mark.parametrize("verb", VERBS)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    try:
        with ministack() as server:
            server.make_bucket("bucket")
            yield server
    except ServerUnavailableError as reason:
        pytest.skip(str(reason))


async def call(store: Store, verb: str) -> object:
    return await VERBS[verb](store)  # type: ignore[misc]


@every_verb
async def test_a_deaf_server_is_waited_for_within_the_limit(verb: str) -> None:
    async with deaf() as endpoint:
        began_s = time.monotonic()
        with pytest.raises(StoreError, match=r"of .* in s3://bucket/prefix: no answer in time"):
            await call(open_at(endpoint), verb)
        assert time.monotonic() - began_s < 3 * QUICK.answer_s


@every_verb
async def test_a_refused_connection(verb: str) -> None:
    (port,) = free_ports(1)
    with pytest.raises(StoreError, match=r"Connection refused") as caught:
        await call(open_at(f"http://127.0.0.1:{port}"), verb)
    assert SECRET_KEY not in str(caught.value)


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_lost_answer_is_told_and_the_object_is_written(
    server: S3Server, is_new: bool
) -> None:
    name = f"lost-{is_new}"
    direct = open_at(server.endpoint, limits=Limits())
    expected = None if is_new else await direct.swap(name, b"before", expected=None)
    cutter = Cutter(server.endpoint)
    async with cutter.listening() as endpoint:
        store = open_at(endpoint)
        await store.get(name)
        cutter.cuts = True
        with pytest.raises(StoreError, match=f"swap of {name} in"):
            await store.swap(name, b"after", expected=expected)
        assert cutter.cut_count == 1  # sent once: a second try would be refused, or worse
        stored = await direct.get(name)
        assert stored is not None
        assert stored.data == b"after"
        cutter.cuts = False
        with pytest.raises(StoreRefused):
            await store.swap(name, b"again", expected=expected)


async def test_a_lost_answer_of_a_put_is_asked_for_again(server: S3Server) -> None:
    cutter = Cutter(server.endpoint)
    async with cutter.listening() as endpoint:
        cutter.cuts = True
        with pytest.raises(StoreError, match="put of lost-put in"):
            await open_at(endpoint).put("lost-put", b"x")
        assert cutter.cut_count == QUICK.tries


@every_verb
@pytest.mark.parametrize("status", [500, 503, 429])
async def test_what_may_be_repeated_is_and_a_swap_is_not(verb: str, status: int) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.method)
        return error(status, "SlowDown", "Reduce your request rate.")

    async with answering(handle) as endpoint:
        with pytest.raises(StoreError, match=rf"answered {status} .*SlowDown Reduce your"):
            await call(open_at(endpoint), verb)
    assert len(asked) == (1 if verb in ("create", "swap") else QUICK.tries)


async def test_a_passing_fault_is_not_noticed() -> None:
    careless = CarelessS3()
    faults = [500, 503]

    async def handle(request: web.Request) -> web.StreamResponse:
        return error(faults.pop(), "InternalError") if faults else await careless.handle(request)

    async with answering(handle) as endpoint:
        await open_at(endpoint).put("a", b"x")
    assert careless.objects == {"/bucket/prefix/a": b"x"}


@pytest.mark.parametrize("verb", ["create", "swap"])
async def test_409_is_no_loss(verb: str) -> None:
    async def handle(request: web.Request) -> web.Response:
        return error(409, "ConditionalRequestConflict")

    async with answering(handle) as endpoint:
        with pytest.raises(StoreError, match=r"answered 409.*conflict.*try again"):
            await call(open_at(endpoint), verb)


@every_verb
async def test_a_missing_bucket_is_not_a_missing_object(verb: str) -> None:
    async def handle(request: web.Request) -> web.Response:
        return error(404, "NoSuchBucket", "The specified bucket does not exist")

    async with answering(handle) as endpoint:
        with pytest.raises(StoreError, match="NoSuchBucket"):
            await call(open_at(endpoint), verb)


@every_verb
async def test_a_denial_is_final_and_tells_no_secret(verb: str) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.headers["Authorization"])
        return error(403, "SignatureDoesNotMatch", "It does not match.")

    async with answering(handle) as endpoint:
        with pytest.raises(StoreError, match="SignatureDoesNotMatch It does not") as caught:
            await call(open_at(endpoint), verb)
    assert len(asked) == 1
    signature = asked[0].rpartition("=")[2]
    assert signature not in str(caught.value)


async def test_an_answer_without_a_tag_is_an_error() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response()

    async with answering(handle) as endpoint:
        with pytest.raises(StoreError, match="swap of a in"):
            await open_at(endpoint).swap("a", b"x", expected=None)


async def test_a_big_body_has_more_time() -> None:
    server = CarelessS3()

    async def handle(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.4 if request.method == "PUT" else 0.0)
        answer = await server.handle(request)
        if request.method != "GET":
            return answer
        slow = web.StreamResponse(headers=answer.headers)
        slow.content_length = 2000
        await slow.prepare(request)
        await asyncio.sleep(0.4)
        await slow.write(bytes(2000))
        return slow

    async with answering(handle) as endpoint:
        store = open_at(endpoint, limits=Limits(answer_s=0.2, bytes_per_s_min=1000, tries=1))
        await store.put("a", bytes(2000))
        await store.swap("b", bytes(2000), expected=None)
        assert await store.get("b") is not None
        with pytest.raises(StoreError, match="no answer in time"):
            await store.put("a", b"")


async def test_a_big_body_is_one_request() -> None:
    """In parts it could not carry a condition."""
    server = CarelessS3()
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.method)
        return await server.handle(request)

    async with answering(handle) as endpoint:
        store = open_at(endpoint, limits=Limits())
        await store.put("a", bytes(BIG))
        await store.swap("b", bytes(BIG), expected=None)
    assert asked == ["PUT", "PUT"]


async def test_a_sound_store_passes_the_probe() -> None:
    careful = CarelessS3()
    async with answering(careful.handle) as endpoint:
        await probe(open_at(endpoint), clock=SystemClock())
    assert careful.objects == {}


@pytest.mark.parametrize(
    ("careless", "deed"),
    [
        (CarelessS3(ignores=True), "let 16 of 16 creates of one object win"),
        (CarelessS3(is_unlocked=True), r"let \d+ of 16 creates of one object win"),
    ],
)
async def test_a_careless_store_is_refused_by_name(careless: CarelessS3, deed: str) -> None:
    async with answering(careless.handle) as endpoint:
        with pytest.raises(StoreUnfit, match=f"s3://bucket/prefix {deed}") as caught:
            await probe(open_at(endpoint), clock=SystemClock())
    assert caught.value.store == "s3://bucket/prefix"
    assert careless.objects == {}


async def test_a_store_that_cannot_be_reached_is_not_unfit() -> None:
    (port,) = free_ports(1)
    with pytest.raises(StoreError, match="Connection refused"):
        await probe(open_at(f"http://127.0.0.1:{port}"), clock=SystemClock())
