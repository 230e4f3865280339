"""Agents for `coatcheck run`, and how to talk to them and their processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from coatcheck_sidecar.cli.supervise import PASSED_ON

WAIT_S = 15.0
LOOK_S = 0.02

AGENT = '''
"""agent.py STEPS PAUSE_S [ignore] [child] [die=N]: pays once a step, then works for a while."""
import asyncio, os, signal, subprocess, sys
from pathlib import Path
import coatcheck

STEPS, PAUSE_S, WORDS = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
HERE = Path(__file__).parent
DIE_AT = next((int(word[4:]) for word in WORDS if word.startswith("die=")), 0)

@coatcheck.tool(effect="once", key="/invoice")
def pay(invoice):
    with (HERE / "ledger").open("a") as ledger:
        ledger.write(f"{invoice}\\n")
    return invoice

async def main():
    async with coatcheck.open_run("r1", schema=1) as run:
        state = run.state or {"n": 0}
        async for step in run.steps():
            state["n"] += 1
            await step.tool(pay)(state["n"])
            print("in step", state["n"], flush=True)
            await asyncio.sleep(PAUSE_S)
            if state["n"] == DIE_AT and not (HERE / "died").exists():
                (HERE / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if state["n"] == STEPS:
                await run.finish("the end", state=state)
            else:
                await step.commit(state)

if "ignore" in WORDS:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
if "child" in WORDS:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print("child", child.pid, flush=True)
print("proxy", os.environ["COATCHECK_PROXY_URL"], flush=True)
print("agent", os.getpid(), flush=True)
asyncio.run(main())
'''

PLAIN = """
import os, signal, sys, time
def hear(number, frame):
    print("heard", signal.Signals(number).name, flush=True)
for name in sys.argv[1:]:
    signal.signal(signal.Signals[name], hear)
print("agent", os.getpid(), flush=True)
while True:
    time.sleep(0.05)
"""
"""An agent without the SDK, which says what it hears of these signals and never goes for them."""


def environ(**more: str) -> dict[str, str]:
    places = ("COATCHECK_", "K_", "FLY_", "ECS_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(places)}
    clean.pop("INVOCATION_ID", None)
    return clean | {"PYTHONUNBUFFERED": "1"} | more


@dataclass
class Running:
    """`coatcheck run`, started in a folder of its own."""

    process: "subprocess.Popen[str]"

    def told(self, word: str) -> str:
        """What the agent says after `word`, on the next line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise AssertionError(f"it never said {word!r}: {self.error()}")

    def error(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def ends(self) -> int:
        try:
            return self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.error()) from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ends()


@contextmanager
def running(
    folder: Path, options: Sequence[str], agent: Sequence[str], **env: str
) -> Iterator[Running]:
    """`agent` are the command's words; `options` those of `coatcheck run`."""
    command = [sys.executable, "-m", "coatcheck", "run", "--data", str(folder / "d"), *options]
    for number in PASSED_ON:  # nohup and a shell's `&` have what they start ignore some of them
        signal.signal(number, signal.SIG_DFL)
    with subprocess.Popen(
        [*command, "--", *agent], env=environ(**env), cwd=folder, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield Running(process)
        finally:
            process.kill()


def script(folder: Path, source: str, *words: str) -> list[str]:
    path = folder / "agent.py"
    path.write_text(source)
    return [sys.executable, str(path), *words]


def sdk(folder: Path, *words: str) -> list[str]:
    return script(folder, AGENT, *words)


def ledger(folder: Path) -> list[int]:
    """What was paid, in order."""
    return [int(line) for line in (folder / "ledger").read_text().split()]


def summary(folder: Path) -> dict[str, object]:
    """How its one run stands in the store."""
    command = ["runs", "--all", "--json", "--store", (folder / "d/store").as_uri()]
    ran = subprocess.run(
        [sys.executable, "-m", "coatcheck", *command],
        env=environ(), capture_output=True, text=True, timeout=WAIT_S, check=True,
    )  # fmt: skip
    (line,) = json.loads(ran.stdout)
    found: dict[str, object] = line["summary"]
    return found


def goes_on(folder: Path, *, at_step: int, steps: int) -> None:
    """The next `coatcheck run` begins in this step, and in the end each step was paid once."""
    with running(folder, (), sdk(folder, str(steps), "0")) as again:
        assert int(again.told("in step")) == at_step
        assert again.ends() == 0, again.error()
    assert summary(folder)["status"] == "finished"
    assert ledger(folder) == list(range(1, steps + 1))


def is_alive(pid: int) -> bool:
    """It is there, and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # before it was opened, or after
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def goes(pid: int, *, within_s: float = 3.0) -> bool:
    until_s = time.monotonic() + within_s
    while is_alive(pid):
        if time.monotonic() > until_s:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(LOOK_S)
    return True
