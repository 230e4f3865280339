"""What every journal must do; run by `test_journal.py` against each."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Protocol, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coatcheck_sidecar.core.model import Level
from coatcheck_sidecar.ports import Journal, JournalDead, Row

EXAMPLES = 25
"""Each opens several journals; a good part of the suite's time."""

RUNS = ("a", "b.1", "zebra")


class Home(Protocol):
    """Where one journal lives through several lives of its process."""

    async def open(self) -> Journal:
        """The first life's journal, or the next one's after a crash or a close."""

    async def leave(self) -> None:
        """Close whatever is open."""


def row(run: str, seq: int, *, epoch: int = 1, data: bytes = b"data") -> Row:
    return Row(run=run, epoch=epoch, seq=seq, data=data)


def seqs(rows: list[Row], run: str = "a") -> list[int]:
    return [row.seq for row in rows if row.run == run]


class Model:
    """The same in ten lines, to compare with."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int, int], Row] = {}

    def append(self, rows: list[Row]) -> None:
        self.rows |= {(row.run, row.epoch, row.seq): row for row in rows}

    def drop(self, run: str, *, up_to: tuple[int, int]) -> int:
        gone = [key for key in self.rows if key[0] == run and key[1:] <= up_to]
        for key in gone:
            del self.rows[key]
        return len(gone)

    def load(self) -> list[Row]:
        return [self.rows[key] for key in sorted(self.rows)]


ROWS = st.builds(
    Row,
    run=st.sampled_from(RUNS),
    epoch=st.integers(1, 3),
    seq=st.integers(0, 8),
    data=st.binary(max_size=6000),
)
BOUND = st.tuples(st.sampled_from(RUNS), st.integers(0, 3), st.integers(0, 8))
ACTIONS = st.one_of(
    st.tuples(
        st.just("append"),
        st.lists(ROWS, max_size=5),
        st.sampled_from((Level.PROCESS, Level.NODE)),
    ),
    st.tuples(st.just("trim"), BOUND, st.none()),
    st.tuples(st.just("aside"), st.sampled_from(RUNS), st.none()),
    st.tuples(st.sampled_from(("load", "reopen")), st.none(), st.none()),
)


async def play(home: Home, actions: list[tuple[str, object, object]]) -> None:
    journal, model = await home.open(), Model()
    for name, what, how in actions:
        match name, what, how:
            case "append", list(rows), Level() as level:
                await journal.append(rows, level=level)
                model.append(rows)
            case "trim", (str(run), int(epoch), int(seq)), _:
                journal.trim(run, up_to_epoch=epoch, up_to_seq=seq)
                model.drop(run, up_to=(epoch, seq))
            case "aside", str(run), _:
                moved = await journal.set_aside(run, reason="diverged")
                assert moved == model.drop(run, up_to=(9, 9))
            case "load", _, _:
                assert await journal.load() == model.load()
            case _:
                await journal.close()
                journal = await home.open()
    assert await journal.load() == model.load()
    await home.leave()


class JournalSuite(ABC):
    """Subclasses say where a journal lives."""

    @abstractmethod
    def make_home(self) -> Home:
        """A new one, empty."""

    @pytest.fixture
    async def home(self) -> AsyncIterator[Home]:
        home = self.make_home()
        yield home
        await home.leave()

    @pytest.fixture
    async def journal(self, home: Home) -> Journal:
        return await home.open()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    @given(st.lists(ACTIONS, max_size=15))
    def test_any_sequence_ends_as_the_model_says(
        self: Self, actions: list[tuple[str, object, object]]
    ) -> None:
        asyncio.run(play(self.make_home(), actions))

    async def test_a_new_one_is_empty_and_well(self, journal: Journal) -> None:
        assert await journal.load() == []
        assert not journal.is_dead
        assert not journal.is_inherited

    async def test_load_is_in_order_of_run_epoch_seq(self, journal: Journal) -> None:
        await journal.append([row("b", 2), row("a", 11, epoch=2)], level=Level.NODE)
        await journal.append([row("a", 12), row("a", 2), row("b", 1)], level=Level.PROCESS)
        keys = [(row.run, row.epoch, row.seq) for row in await journal.load()]
        assert keys == [("a", 1, 2), ("a", 1, 12), ("a", 2, 11), ("b", 1, 1), ("b", 1, 2)]

    @pytest.mark.parametrize("level", [Level.PROCESS, Level.NODE])
    async def test_rows_survive_the_process(self, home: Home, level: Level) -> None:
        journal = await home.open()
        big = row("a", 1, data=b"\0" * (256 * 1024))
        await journal.append([big, row("a", 2, data=b"")], level=level)
        await journal.close()
        heir = await home.open()
        assert heir.is_inherited
        assert await heir.load() == [big, row("a", 2, data=b"")]

    async def test_a_row_with_the_same_key_replaces(self, journal: Journal) -> None:
        await journal.append([row("a", 1), row("a", 2)], level=Level.NODE)
        await journal.append([row("a", 1), row("a", 2, data=b"new")], level=Level.NODE)
        await journal.append([row("a", 3, data=b"1"), row("a", 3, data=b"2")], level=Level.NODE)
        assert [row.data for row in await journal.load()] == [b"data", b"new", b"2"]

    async def test_an_append_of_any_length_is_taken(self, home: Home) -> None:
        journal = await home.open()
        rows = [row("a", seq, data=b"") for seq in range(3_000)]
        await journal.append(rows, level=Level.NODE)
        await journal.append([], level=Level.NODE)
        await journal.close()
        assert await (await home.open()).load() == rows

    async def test_what_cannot_be_is_refused_and_harms_nobody(self, journal: Journal) -> None:
        good = asyncio.gather(*(journal.append([row("a", n)], level=Level.NODE) for n in range(5)))
        for bad in (row("a", 2**63), row("a", -1), row("a", 9, epoch=2**64)):
            with pytest.raises(ValueError, match="out of range"):
                await journal.append([row("a", 8), bad], level=Level.NODE)
        with pytest.raises(ValueError, match="remote"):
            await journal.append([row("a", 8)], level=Level.REMOTE)
        await good
        assert seqs(await journal.load()) == [0, 1, 2, 3, 4]

    async def test_trim_forgets_up_to_a_bound_of_its_run(self, journal: Journal) -> None:
        rows = [row("a", 1), row("a", 5), row("a", 2, epoch=2), row("a", 6, epoch=2), row("b", 1)]
        await journal.append(rows, level=Level.NODE)
        journal.trim("a", up_to_epoch=2, up_to_seq=2)
        journal.trim("a", up_to_epoch=1, up_to_seq=9)
        journal.trim("nobody", up_to_epoch=9, up_to_seq=9)
        assert await journal.load() == rows[3:]

    async def test_trim_reaches_rows_on_their_way(self, journal: Journal) -> None:
        waiting = [journal.append([row("a", n)], level=Level.NODE) for n in range(4)]
        await asyncio.sleep(0)
        journal.trim("a", up_to_epoch=1, up_to_seq=2)
        await asyncio.gather(*waiting)
        assert seqs(await journal.load()) == [3]

    async def test_set_aside_moves_one_run(self, home: Home) -> None:
        journal = await home.open()
        await journal.append([row("a", 1), row("a", 2), row("b", 1)], level=Level.NODE)
        assert await journal.set_aside("a", reason="the head is ahead") == 2
        assert await journal.set_aside("a", reason="again") == 0
        await journal.append([row("a", 3)], level=Level.NODE)
        await journal.close()
        assert await (await home.open()).load() == [row("a", 3), row("b", 1)]

    async def test_many_producers(self, home: Home) -> None:
        journal = await home.open()

        async def produce(run: str) -> None:
            for seq in range(20):
                level = Level.NODE if seq % 3 else Level.PROCESS
                await journal.append([row(run, seq), row(run, seq, epoch=2)], level=level)
                if seq == 10:
                    journal.trim(run, up_to_epoch=1, up_to_seq=4)

        await asyncio.gather(*(produce(f"run-{number}") for number in range(50)))
        await journal.close()
        rows = await (await home.open()).load()
        for number in range(50):
            assert seqs(rows, f"run-{number}") == [*range(5, 20), *range(20)]

    async def test_a_cancelled_caller_disturbs_nobody(self, journal: Journal) -> None:
        tasks = [journal.append([row("a", n)], level=Level.NODE) for n in range(9)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.exception() is None for task in tasks[1::2])
        await journal.append([row("a", 9)], level=Level.NODE)
        assert seqs(await journal.load()) == list(range(10))

    async def test_close_drains_and_then_all_is_refused(self, home: Home) -> None:
        journal = await home.open()
        tasks = [journal.append([row("a", n)], level=Level.NODE) for n in range(600)]
        await asyncio.sleep(0)
        await asyncio.gather(journal.close(), journal.close())
        await asyncio.gather(*tasks)
        with pytest.raises(JournalDead, match="closed"):
            await journal.append([row("a", 1)], level=Level.NODE)
        with pytest.raises(JournalDead, match="closed"):
            await journal.load()
        with pytest.raises(JournalDead, match="closed"):
            await journal.set_aside("a", reason="late")
        with pytest.raises(JournalDead, match="closed"):
            journal.trim("a", up_to_epoch=1, up_to_seq=1)
        assert not journal.is_dead
        await journal.close()
        assert seqs(await (await home.open()).load()) == list(range(600))
