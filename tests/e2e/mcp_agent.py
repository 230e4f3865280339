"""An agent with one MCP client and no more: looks and charges, one invoice after another.

    python -m tests.e2e.mcp_agent HOW INVOICE ...

HOW is `auto` or `legacy` (the client's protocol era, over HTTP), or a command of a stdio server, as
JSON. Each result is printed as a line of JSON; the run is finished at the end.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence

from mcp import Client, StdioServerParameters

import coatcheck


async def main(how: str, invoices: Sequence[str]) -> None:
    async with coatcheck.open_run("order", schema=1) as run:
        if how in ("auto", "legacy"):
            client = Client(run.proxy_url("shop"), mode=how)
        else:
            command, *args = json.loads(how)
            env = {"COATCHECK_PROXY_URL": run.proxy_url("").rstrip("/"), **os.environ}
            client = Client(StdioServerParameters(command=command, args=args, env=env))
        async with client as mcp:
            await mcp.list_tools()
            print("ready", flush=True)
            for invoice in invoices:
                for tool in ("look", "charge"):
                    result = await mcp.call_tool(tool, {"invoice": invoice})
                    said = {
                        "tool": tool,
                        "invoice": invoice,
                        "text": result.content[0].text if result.content[0].type == "text" else "",
                        "known": (result.meta or {}).get("dev.coatcheck/outcome"),
                    }
                    print(json.dumps(said), flush=True)
        await run.finish()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
