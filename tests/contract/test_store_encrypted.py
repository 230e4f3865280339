"""Encryption changes nothing of what a store does, and shows nothing of what it holds."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.envelope import OVERHEAD_BYTES, key_id_of, why_unread
from coatcheck_sidecar.ports import Store
from coatcheck_sidecar.stores.directory import DirectoryStore
from coatcheck_sidecar.stores.encrypted import FILE_BYTES_MAX, INLINE_BYTES_MAX, with_keys
from coatcheck_sidecar.stores.memory import MemoryStore
from tests.contract.store_suite import OpenStore, StoreSuite

NAME = "runs/a/head"


def line(key_id: str) -> str:
    key = key_id.encode().ljust(32, b"=")
    return f"{key_id}: {base64.b64encode(key).decode()}\n"


def write_keys(path: Path, text: str) -> None:
    path.write_text(text)


def turn_the_link(path: Path, text: str) -> None:
    """As the kubelet brings a changed Secret."""
    count = len(list(path.parent.iterdir()))
    version = path.parent / f"version{count}"
    version.write_text(text)
    link = path.parent / "link"
    link.symlink_to(version)
    link.replace(path)


def remove(path: Path) -> None:
    path.unlink()


class Hands(SystemClock):
    """A clock that goes on when it is told to."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(line("a"))
    return path


@pytest.fixture
def inner() -> MemoryStore:
    return MemoryStore(now_ms=SystemClock().wall_ms)


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


class TestEncryptedMemory(StoreSuite):
    @pytest.fixture
    def open_store(self, inner: MemoryStore, file: Path) -> OpenStore:
        return lambda: with_keys(inner, file, clock=SystemClock())


class TestEncryptedDirectory(StoreSuite):
    @pytest.fixture
    def open_store(self, tmp_path: Path, file: Path) -> OpenStore:
        clock = SystemClock()
        return lambda: with_keys(DirectoryStore(tmp_path / "s", clock=clock), file, clock=clock)


class TestPlainFirst(StoreSuite):
    """The first step of a roll-out: all read what is encrypted, none writes it."""

    @pytest.fixture
    def open_store(self, inner: MemoryStore, file: Path) -> OpenStore:
        file.write_text("plain\n" + line("a"))
        return lambda: with_keys(inner, file, clock=SystemClock())


async def read(store: Store, name: str = NAME) -> bytes:
    stored = await store.get(name)
    assert stored is not None
    return stored.data


async def refused(store: Store, name: str = NAME) -> str:
    why = why_unread(await read(store, name))
    assert why is not None
    return why


def test_without_a_file_the_store_is_itself(inner: MemoryStore) -> None:
    assert with_keys(inner, None, clock=SystemClock()) is inner


@pytest.mark.parametrize("length", [0, 20, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1])
async def test_nothing_of_it_lies_in_the_store(inner: MemoryStore, file: Path, length: int) -> None:
    store = with_keys(inner, file, clock=SystemClock())
    data = (b"a secret of nobody" * (length // 18 + 1))[:length]
    await store.put("runs/a/o/1", data)
    await store.swap(NAME, data, expected=None)
    for name in ("runs/a/o/1", NAME):
        lies = await read(inner, name)
        assert b"secret" not in lies
        assert (key_id_of(lies), len(lies)) == ("a", length + OVERHEAD_BYTES)
        assert await read(store, name) == data
    assert await read(inner, NAME) != await read(inner, "runs/a/o/1")


async def test_equal_objects_are_written_differently(inner: MemoryStore, file: Path) -> None:
    store = with_keys(inner, file, clock=SystemClock())
    first = await store.swap(NAME, b"same", expected=None)
    assert await store.swap(NAME, b"same", expected=first) != first


async def test_swapped_objects_are_refused(inner: MemoryStore, file: Path) -> None:
    store = with_keys(inner, file, clock=SystemClock())
    await store.put("runs/a/head", b"of a")
    await store.put("runs/b/head", b"of b")
    await inner.put("runs/b/head", await read(inner, "runs/a/head"))
    assert "written under another name" in await refused(store, "runs/b/head")
    assert await read(store, "runs/a/head") == b"of a"


async def test_what_is_not_encrypted_is_refused_unless_allowed(
    inner: MemoryStore, file: Path
) -> None:
    await inner.put(NAME, b"as it is")
    store = with_keys(inner, file, clock=SystemClock())
    assert "no line `plain`" in await refused(store)
    write_keys(file, line("a") + "plain\n")
    allowed = with_keys(inner, file, clock=SystemClock())
    assert await read(allowed) == b"as it is"
    await allowed.put(NAME, b"new")
    assert key_id_of(await read(inner)) == "a"


@pytest.mark.parametrize("write", [write_keys, turn_the_link])
async def test_a_changed_file_is_read_within_a_second(
    inner: MemoryStore, file: Path, write: Callable[[Path, str], object]
) -> None:
    clock = Hands()
    store = with_keys(inner, file, clock=clock)
    await store.put("old", b"1")
    write(file, line("b") + line("a"))
    clock.now_s += 1.0
    await store.put("new", b"2")
    assert key_id_of(await read(inner, "new")) == "b"
    assert (await read(store, "old"), await read(store, "new")) == (b"1", b"2")
    write(file, line("b"))
    clock.now_s += 1.0
    why = await refused(store, "old")
    assert why.startswith("encrypted with key a, which the key ring lacks; put it (back) into")
    write(file, line("b") + line("a"))
    assert await read(store, "old") == b"1", "a key that is wanted is looked for at once"


async def test_a_file_that_goes_wrong_is_told_once_and_the_keys_stay(
    inner: MemoryStore, file: Path
) -> None:
    clock, told = Hands(), list[str]()
    store = with_keys(inner, file, clock=clock, on_trouble=told.append)

    async def still_works() -> None:
        clock.now_s += 2.0
        await store.put(NAME, b"x")
        assert await read(store) == b"x"

    write_keys(file, "a: QUJD")
    await still_works()
    await still_works()
    remove(file)
    await still_works()
    await still_works()
    assert len(told) == 2
    assert "line 1: must be" in told[0]
    assert "No such file" in told[1]
    assert not [text for text in told if "QUJD" in text]
    write_keys(file, line("b") + line("a"))
    await still_works()
    assert key_id_of(await read(inner)) == "b"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "holds no key"),
        (b"\xff\xfe", "no text"),
        (b"a: QUJD", "line 1"),
        (b"#" * FILE_BYTES_MAX + b"\n" + line("a").encode(), "is longer than"),
    ],
)
def test_a_wrong_file_stops_the_start(
    inner: MemoryStore, file: Path, text: bytes, told: str
) -> None:
    file.write_bytes(text)
    with pytest.raises(ValueError, match=rf"^encryption_keys \({file}\): .*{told}"):
        with_keys(inner, file, clock=SystemClock())


def test_so_does_a_missing_file(inner: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file or directory"):
        with_keys(inner, tmp_path / "none", clock=SystemClock())


async def test_lengths_are_those_of_the_objects(inner: MemoryStore, file: Path) -> None:
    store = with_keys(inner, file, clock=SystemClock())
    await store.put(NAME, b"12345")
    await inner.put("clock/00", b"tick")
    [stamp, head] = await store.list("")
    [under] = await inner.list(NAME)
    assert (stamp.length, head.length) == (0, 5)
    assert replace(head, length=under.length) == under
