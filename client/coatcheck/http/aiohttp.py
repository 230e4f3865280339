"""For aiohttp.

    async with aiohttp.ClientSession(trace_configs=[trace()]) as http:
        await http.post(run.proxy_url("mail") + "/send", json=...)

A session serves any number of runs: each request says what is under way where it is made.
"""

from types import SimpleNamespace

import aiohttp

from coatcheck.http import HEADERS, headers_for


def trace() -> aiohttp.TraceConfig:
    """Puts the headers on requests that go to the proxy."""
    config = aiohttp.TraceConfig()
    config.on_request_start.append(_sign)
    config.on_request_redirect.append(_forget)
    return config


async def _sign(
    _: aiohttp.ClientSession, __: SimpleNamespace, asked: aiohttp.TraceRequestStartParams
) -> None:
    said = headers_for(str(asked.url), method=asked.method)
    for name in said.keys() - asked.headers.keys():
        asked.headers[name] = said[name]


async def _forget(
    _: aiohttp.ClientSession, __: SimpleNamespace, asked: aiohttp.TraceRequestRedirectParams
) -> None:
    """A redirect goes on with the same headers, perhaps to another host."""
    for name in HEADERS:
        asked.headers.popall(name, None)
