"""For requests, and what is built on it.

    session = requests.Session()
    session.mount("http://", Adapter())
    session.post(run.proxy_url("mail") + "/send", json=...)

An adapter serves any number of runs: each request says what is under way where it is made.
"""

from collections.abc import Mapping

import requests
from requests.adapters import HTTPAdapter

from coatcheck.http import headers_for


class Adapter(HTTPAdapter):
    """`requests.adapters.HTTPAdapter`, with its options."""

    def send(  # noqa: PLR0917 - the library's own
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send it, saying what it is of if it goes to the proxy."""
        said = headers_for(request.url or "", method=request.method or "GET")
        # A copy: a redirect to another host begins with the headers of the request as it was.
        signed = request.copy()
        for name in said.keys() - signed.headers.keys():
            signed.headers[name] = said[name]
        return super().send(signed, stream, timeout, verify, cert, proxies)
