"""The spool keeps what it acknowledged, and says so when it can't."""

import asyncio
from pathlib import Path

import pytest

from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.stores.spool import Spool, SpoolDamaged, SpoolError, SpoolFull

BIG = b"chat" * 250_000


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", bytes_max=4_000_000)


@pytest.mark.parametrize("level", [Level.PROCESS, Level.NODE])
@pytest.mark.parametrize("data", [b"", BIG])
async def test_what_is_written_is_read(spool: Spool, data: bytes, level: Level) -> None:
    name = await spool.write(data, level=level)
    assert await spool.read(name) == data
    assert spool.bytes_used == len(data)


async def test_a_next_life_finds_all(spool: Spool, tmp_path: Path) -> None:
    name = await spool.write(BIG)
    (tmp_path / "spool" / "a stranger").touch()
    heir = Spool(tmp_path / "spool", bytes_max=4_000_000)
    assert heir.bytes_used == len(BIG)
    assert await heir.read(name) == BIG
    assert await heir.write(BIG) != name


async def test_equal_values_are_apart(spool: Spool) -> None:
    first, second = await asyncio.gather(spool.write(BIG), spool.write(BIG))
    await spool.remove(first)
    await spool.remove(first)
    assert await spool.read(second) == BIG
    assert spool.bytes_used == len(BIG)
    with pytest.raises(SpoolError, match=first):
        await spool.read(first)


async def test_clean_keeps_what_it_is_told_and_what_is_on_its_way(spool: Spool) -> None:
    kept, gone = await spool.write(b"kept"), await spool.write(b"gone")
    coming = asyncio.ensure_future(spool.write(BIG))
    await asyncio.sleep(0)
    await spool.clean({kept})
    assert await spool.read(kept) == b"kept"
    assert await spool.read(await coming) == BIG
    with pytest.raises(SpoolError):
        await spool.read(gone)


async def test_the_limit_counts_what_is_being_written(spool: Spool) -> None:
    results = await asyncio.gather(*(spool.write(BIG) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [str] * 4 + [SpoolFull]
    assert str(results[4]).endswith("holds 4000000 of 4000000 bytes; 1000000 more do not fit")
    await spool.clean(set())
    assert spool.bytes_used == 0
    await spool.write(BIG)


async def test_damage_is_named(spool: Spool, tmp_path: Path) -> None:
    name = await spool.write(BIG)
    path = tmp_path / "spool" / name
    path.write_bytes(b"Chat" + BIG[4:])
    with pytest.raises(SpoolDamaged, match=name):
        await spool.read(name)


async def test_a_write_given_up_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    writing = asyncio.ensure_future(spool.write(BIG))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    for _ in range(100):
        await asyncio.sleep(0.01)
        if not spool.bytes_used and not list((tmp_path / "spool").iterdir()):
            return
    pytest.fail("the file of a cancelled write stays")


async def test_a_folder_that_is_gone_is_an_error(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "spool").rmdir()
    with pytest.raises(SpoolError, match="can't write"):
        await spool.write(BIG)
    assert spool.bytes_used == 0


async def test_only_its_own_names_and_levels(spool: Spool) -> None:
    with pytest.raises(ValueError, match="not a name"):
        await spool.read("../journal.db")
    with pytest.raises(ValueError, match="remote"):
        await spool.write(BIG, level=Level.REMOTE)
