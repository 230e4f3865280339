"""For httpx2, and what is built on it.

    client = httpx2.Client(transport=Transport())  # an AsyncClient takes AsyncTransport()
    model = OpenAI(base_url=run.proxy_url("openai"), http_client=client)

A transport serves any number of runs: each request says what is under way where it is made.
"""

import httpx2

from coatcheck.http import headers_for


class Transport(httpx2.HTTPTransport):
    """`httpx2.HTTPTransport`, with its options."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it, saying what it is of if it goes to the proxy."""
        return super().handle_request(_signed(request))


class AsyncTransport(httpx2.AsyncHTTPTransport):
    """`httpx2.AsyncHTTPTransport`, with its options."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it, saying what it is of if it goes to the proxy."""
        return await super().handle_async_request(_signed(request))


def _signed(request: httpx2.Request) -> httpx2.Request:
    """A copy: a redirect to another host begins with the headers of the request as it was."""
    said = headers_for(str(request.url), method=request.method)
    return httpx2.Request(
        request.method,
        request.url,
        headers=[*request.headers.raw, *_new(said, request.headers)],
        stream=request.stream,
        extensions=request.extensions,
    )


def _new(said: dict[str, str], given: httpx2.Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), said[name].encode()) for name in said if name not in given]
