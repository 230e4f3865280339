"""The agent of `crash`: ten steps, each a POST of one second. `bare` posts once, without us."""

import sys
import urllib.request

TEN = 10


def post(url: str, step: int) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{url}/{step}", data=b"x", method="POST")  # noqa: S310 - http
    with opener.open(request, timeout=30) as answer:
        return int(answer.status)


def agent(url: str) -> None:
    """A call that may have happened is noted and not made again; the run goes on."""
    import coatcheck.sync
    from coatcheck.errors import InDoubt

    with coatcheck.sync.open_run("crash", schema=1) as run:
        state = run.state or {"doubts": []}
        for step in run.steps():
            if step.number > TEN:
                run.finish(state["doubts"])
                break
            charge = step.tool(post, effect="once", unresolved_ok=True)
            try:
                charge(url, step.number)
            except InDoubt:
                state["doubts"].append(step.number)
            step.commit(state)


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        post(sys.argv[2], 0)
    else:
        agent(sys.argv[2])
