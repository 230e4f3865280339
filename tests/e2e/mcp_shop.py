"""An MCP server that charges, and writes each charge down before it answers.

    python -m tests.e2e.mcp_shop --ledger FILE [--port N]

Without a port it speaks by standard input and output. Its parent's process id and its own are
beside the ledger. `charge` takes `--delay-s` from the charge to its answer: time to be killed in.
"""

import argparse
import asyncio
import os
import signal
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations

server = MCPServer(name="shop")


class Shop:
    ledger: Path
    delay_s: float


def _write(line: str) -> None:
    with Shop.ledger.open("a") as file:
        file.write(f"{line}\n")


@server.tool()
async def charge(invoice: str, ctx: Context) -> str:
    """Charge an invoice."""
    _write(f"charge {invoice}")
    await ctx.report_progress(1, 2, "charged")
    await asyncio.sleep(Shop.delay_s)
    if invoice == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"receipt of {invoice}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def look(invoice: str) -> str:
    """Look at an invoice."""
    _write(f"look {invoice}")
    return f"price of {invoice}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    Shop.ledger, Shop.delay_s = args.ledger, args.delay_s
    args.ledger.with_suffix(".pids").write_text(f"{os.getppid()} {os.getpid()}")
    if args.port is None:
        server.run("stdio")
    else:
        server.run("streamable-http", port=args.port)


if __name__ == "__main__":
    main()
