"""peer: LangGraph with its SQLite saver, if installed, on the workloads step and chat."""

import asyncio
import importlib
import importlib.util
import itertools
import operator
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

import coatcheck.sync
from bench.chat import MESSAGE_BYTES, STEPS, chat_of
from bench.measure import Line, Times, p
from bench.pod import pod

NEEDS = ("langgraph.graph", "langgraph.checkpoint.sqlite")
STEP_COUNT = 500
ROUNDS = 3


class Chat(TypedDict):
    """The peer's state: a channel that grows, and is saved whole at each step."""

    count: int
    messages: Annotated[list[dict[str, str]], operator.add]


def _is_installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) is not None for name in NEEDS)
    except ModuleNotFoundError:
        return False


def _message() -> dict[str, str]:
    return {"role": "user", "content": os.urandom(MESSAGE_BYTES // 2).hex()}


def _peer(folder: Path, *, is_chat: bool, steps: int) -> tuple[Times, int]:
    """Seconds from step to step, and bytes on disk; durability `sync`, one node that loops."""
    graph = importlib.import_module("langgraph.graph")
    saver = importlib.import_module("langgraph.checkpoint.sqlite").SqliteSaver
    ends: list[float] = []

    def work(state: Chat) -> Chat:
        ends.append(time.perf_counter())
        messages = [_message()] if is_chat else []
        return {"count": state["count"] + 1, "messages": messages}

    builder = graph.StateGraph(Chat)
    builder.add_node("work", work)
    builder.add_edge(graph.START, "work")
    builder.add_conditional_edges(
        "work", lambda state: graph.END if state["count"] >= steps else "work"
    )
    connection = sqlite3.connect(folder / "peer.db", check_same_thread=False)
    app = builder.compile(checkpointer=saver(connection))
    config: Any = {"configurable": {"thread_id": "bench"}, "recursion_limit": steps + 10}
    app.invoke({"count": 0, "messages": []}, config, durability="sync")
    ends.append(time.perf_counter())
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    kept = sum(path.stat().st_size for path in folder.iterdir())
    return [b - a for a, b in itertools.pairwise(ends)], kept


def _ours(name: str) -> Times:
    times = []
    with coatcheck.sync.open_run(name, schema=1) as run:
        for count in range(STEP_COUNT):
            began = time.perf_counter()
            run.commit({"count": count, "messages": []})
            times.append(time.perf_counter() - began)
    return times


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table; here `floor` is the peer."""
    if not _is_installed():
        why = "skipped: pip install langgraph langgraph-checkpoint-sqlite"
        return [Line(what="peer, LangGraph", ours=0, unit="", note=why)]
    steps: list[tuple[float, float]] = []
    chats: list[tuple[float, float]] = []
    peer_bytes = 0
    with tempfile.TemporaryDirectory(prefix="coatcheck-peer-") as name, pod():
        folder = Path(name) / "peer"
        for n in range(1 if is_quick else ROUNDS):
            theirs, _ = _peer(_fresh(folder), is_chat=False, steps=STEP_COUNT)
            steps.append((p(0.5, theirs), p(0.5, _ours(f"step-{n}"))))
            theirs, peer_bytes = _peer(_fresh(folder), is_chat=True, steps=STEPS)
            chats.append((sum(theirs), sum(asyncio.run(chat_of(f"chat-{n}")))))
    return [
        _line("peer, LangGraph on SQLite, step p50", steps, scale=1e3, unit="ms"),
        _line(
            "peer, LangGraph on SQLite, chat",
            chats,
            unit="s",
            note=f"{peer_bytes / 1e6:.0f} MB there",
        ),
    ]


def _line(
    what: str, pairs: list[tuple[float, float]], *, scale: float = 1.0, unit: str, note: str = ""
) -> Line:
    return Line(
        what=what,
        ours=statistics.median(mine for _, mine in pairs) * scale,
        floor=statistics.median(theirs for theirs, _ in pairs) * scale,
        paired_ratio=statistics.median(mine / theirs for theirs, mine in pairs),
        unit=unit,
        note=f"floor: the peer{'; ' + note if note else ''}",
    )
