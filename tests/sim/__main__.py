"""`python -m tests.sim --seeds N [--from S]`, or `--seed X -v` for one and its trace."""

import argparse
import gc
import os
import subprocess
import sys
import time

from tests.sim.chaos import Verdict, run_seed, sweep_up

TRACE_LINES: int = 80
"""Of a failing seed; `-v` shows all."""
SWEEP_EVERY: int = 10
"""Worlds are collected in heaps: while one lives the collector is off."""
HASH_SEED: str = "0"
"""Sets of words are walked in the same order in each run."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.execve(  # noqa: S606 - this very program, with one variable set
            sys.executable,
            [sys.executable, "-m", "tests.sim", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": HASH_SEED},
        )
    if options.seed is not None:
        options.first, options.seeds = options.seed, 1
    if options.jobs > 1:
        return _in_parallel(options)
    return _run(options)


def _in_parallel(options: argparse.Namespace) -> int:
    share = -(-options.seeds // options.jobs)
    workers = []
    for first in range(options.first, options.first + options.seeds, share):
        count = min(share, options.first + options.seeds - first)
        command = [sys.executable, "-m", "tests.sim", "--seeds", str(count), "--from", str(first)]
        command += ["--keep-going"] if options.keep_going else []
        workers.append(subprocess.Popen(command))
    return max(worker.wait() for worker in workers)


def _run(options: argparse.Namespace) -> int:
    began_s = time.monotonic()
    virtual_s, failed = 0.0, []
    gc.disable()
    sys.unraisablehook = lambda _: None  # coroutines of dead worlds complain when they go
    for done, seed in enumerate(range(options.first, options.first + options.seeds), start=1):
        verdict = run_seed(seed)
        virtual_s += verdict.virtual_s
        if verdict.fault:
            failed.append(seed)
            if options.keep_going:
                print(f"seed {seed}: {verdict.fault[:400]}", flush=True)
        if verdict.fault and not options.keep_going or options.verbose:
            _show(verdict, lines=0 if options.verbose else TRACE_LINES)
        if verdict.fault and not options.keep_going:
            return 1
        del verdict
        if done % SWEEP_EVERY == 0:
            sweep_up()
    took_s = time.monotonic() - began_s
    print(
        f"{options.seeds} seeds from {options.first}: {virtual_s:.0f} s of virtual time in "
        f"{took_s:.0f} s; failed: {failed or 'none'}"
    )
    return 1 if failed else 0


def _show(verdict: Verdict, *, lines: int) -> None:
    for now_s, event, fields in verdict.trace[-lines:]:
        told = " ".join(f"{name}={value}" for name, value in fields.items())
        print(f"{now_s:10.4f}  {event:14} {told}")
    print(
        f"\nseed {verdict.seed}: {verdict.fault or 'holds'}\n"
        f"  {verdict.virtual_s:.1f} s of virtual time, {verdict.callbacks} callbacks; "
        f"again with: python -m tests.sim --seed {verdict.seed} -v"
    )


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # worlds that are left don't get to clean up
