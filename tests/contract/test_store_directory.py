import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Store, StoreError, StoreUnfit
from coatcheck_sidecar.stores import directory, files
from coatcheck_sidecar.stores.directory import DirectoryStore
from coatcheck_sidecar.stores.files import ASIDE, SETTLED_MAX, Files
from tests.contract.store_suite import OpenStore, StoreSuite

KILLS = 12

COUNTER = """
import asyncio, sys
from pathlib import Path
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import StoreRefused
from coatcheck_sidecar.stores.directory import DirectoryStore

async def main():
    store = DirectoryStore(Path(sys.argv[1]), clock=SystemClock())
    won = 0
    while won < int(sys.argv[2]):
        stored = await store.get("runs/a/head")
        number = 0 if stored is None else int(stored.data)
        try:
            await store.swap("runs/a/head", b"%d" % (number + 1), expected=stored and stored.tag)
        except StoreRefused:
            continue
        won += 1
    await store.close()

asyncio.run(main())
"""

WRITER = """
import asyncio, sys
from itertools import count
from pathlib import Path
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.stores.directory import DirectoryStore

async def main():
    store = DirectoryStore(Path(sys.argv[1]), clock=SystemClock())
    stored = await store.get("runs/a/head")
    tag = stored and stored.tag
    for number in count(int(stored.data[:8]) + 1 if stored else 1):
        body = (b"%08d" % number) * 25_000
        await store.put(f"runs/a/o/{number:08}", body)
        tag = await store.swap("runs/a/head", body, expected=tag)
        print(number, flush=True)

asyncio.run(main())
"""


def spawn(code: str, *argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *argv], stdout=subprocess.PIPE)


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    opened: list[DirectoryStore] = []

    def open_one() -> Store:
        opened.append(DirectoryStore(tmp_path / "store", clock=SystemClock()))
        return opened[-1]

    yield open_one
    for store in opened:
        asyncio.run(store.close())


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


class TestDirectory(StoreSuite):
    pass


def test_processes_lose_no_swap(tmp_path: Path) -> None:
    writers = [spawn(COUNTER, str(tmp_path), "100") for _ in range(3)]
    for writer in writers:
        assert writer.wait(25) == 0
        assert writer.stdout is not None
        writer.stdout.close()
    assert (tmp_path / "runs/a/head").read_bytes() == b"300"


async def test_a_kill_leaves_no_half_object(store: Store, tmp_path: Path) -> None:
    acknowledged = 0
    chance = random.Random(7)
    for _ in range(KILLS):
        with spawn(WRITER, str(tmp_path / "store")) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            await asyncio.sleep(chance.uniform(0.0, 0.02))
            writer.send_signal(signal.SIGKILL)
            lines = [first, *writer.stdout.read().split()]
        acknowledged = max(acknowledged, *(int(line) for line in lines if line))
        for line in await store.list("runs/"):
            stored = await store.get(line.name)
            assert stored is not None
            assert stored.data == stored.data[:8] * 25_000
        head = await store.get("runs/a/head")
        assert head is not None
        assert int(head.data[:8]) in (acknowledged, acknowledged + 1)
    assert acknowledged >= KILLS


async def test_what_lies_aside_is_not_listed_and_is_swept(store: Store, tmp_path: Path) -> None:
    aside = tmp_path / "store" / ASIDE
    await store.put("a", b"x")
    for name in ("fresh", "old"):
        (aside / name).write_bytes(b"half")
    hour_ago_s = time.time() - 3700
    os.utime(aside / "old", (hour_ago_s, hour_ago_s))
    again = DirectoryStore(tmp_path / "store", clock=SystemClock())
    assert [line.name for line in await again.list("")] == ["a"]
    assert sorted(path.name for path in aside.iterdir()) == ["fresh"]
    await again.close()


async def test_writers_leave_nothing_aside(store: Store, tmp_path: Path) -> None:
    await store.put("runs/a", b"a file, so no folder")
    for verb in (store.put("runs/a/head", b""), store.swap("runs/a/head", b"", expected=None)):
        with pytest.raises(StoreError, match="Not a directory"):
            await verb
    assert list((tmp_path / "store" / ASIDE).iterdir()) == []


async def test_empty_folders_go_and_may_stay(store: Store, tmp_path: Path) -> None:
    (tmp_path / "store" / "runs" / "empty" / "o").mkdir(parents=True)
    assert await store.list("") == []
    tag = await store.swap("runs/a/head", b"x", expected=None)
    assert await store.get("runs/a") is None
    await store.delete("runs/a/head")
    assert [path.name for path in (tmp_path / "store" / "runs").iterdir()] == ["empty"]
    assert await store.swap("runs/a/head", b"x", expected=None) == tag


async def test_many_folders_are_remembered_within_a_bound(tmp_path: Path) -> None:
    files = Files(tmp_path, clock=SystemClock())
    files._settled.update(str(number) for number in range(SETTLED_MAX))
    files.write("runs/a/head", b"x")
    assert len(files._settled) == 1


async def test_a_folder_removed_under_a_writer_is_made_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    write_file = files._write_file

    def remove_and_write(path: str, data: bytes, *, stamp_ns: int) -> None:
        if len(removed) % 2 == 0:
            (tmp_path / "store" / "runs" / "a").rmdir()
        removed.append(path)
        write_file(path, data, stamp_ns=stamp_ns)

    monkeypatch.setattr(files, "_write_file", remove_and_write)
    await store.put("runs/a/1", b"put")
    await store.delete("runs/a/1")
    await store.swap("runs/a/1", b"swap", expected=None)
    assert len(removed) == 4
    assert (tmp_path / "store/runs/a/1").read_bytes() == b"swap"


async def test_damage_shows_as_changed_bytes(store: Store, tmp_path: Path) -> None:
    tag = await store.swap("runs/a/head", b"good", expected=None)
    (tmp_path / "store/runs/a/head").write_bytes(b"goad")
    stored = await store.get("runs/a/head")
    assert stored is not None
    assert stored.data == b"goad"
    assert stored.tag != tag


async def test_a_store_that_went_away_is_not_an_empty_one(store: Store, tmp_path: Path) -> None:
    await store.put("runs/a/o/1", b"x")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    for verb in (
        store.get("runs/a/o/1"),
        store.list("runs/"),
        store.put("runs/a/o/1", b"x"),
        store.swap("runs/a/head", b"x", expected=None),
        store.swap("runs/b/head", b"x", expected="tag"),
        store.delete("runs/b/head"),
    ):
        with pytest.raises(StoreError, match="the store's own folder is gone"):
            await verb


async def test_a_lock_held_too_long_is_an_error(tmp_path: Path) -> None:
    import fcntl

    store = DirectoryStore(tmp_path, clock=SystemClock(), answer_s=0.2)
    tag = await store.swap("runs/a/head", b"x", expected=None)
    holder = os.open(tmp_path / "runs/a", os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match=r"swap of runs/a/head in file:///.* within 0.2 s"):
        await store.swap("runs/a/head", b"y", expected=tag)
    await store.put("runs/a/o/1", b"a put needs no lock")
    os.close(holder)
    await store.swap("runs/a/head", b"y", expected=tag)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.get("runs/a/head")


async def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "network_file_system", lambda path: "nfs4")
    with pytest.raises(StoreUnfit, match=r"file:///.* is on a network file system \(nfs4\)"):
        DirectoryStore(tmp_path / "store", clock=SystemClock())
    assert not (tmp_path / "store").exists()


async def test_the_loop_goes_on_while_the_disk_works(store: Store) -> None:
    body = bytes(32 * 1024 * 1024)
    put = asyncio.gather(store.put("a", body), store.put("b", body))
    began_s = last_s = time.perf_counter()
    longest_s = 0.0
    while not put.done():
        await asyncio.sleep(0)
        now_s = time.perf_counter()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    await put
    assert longest_s < (time.perf_counter() - began_s) / 4
