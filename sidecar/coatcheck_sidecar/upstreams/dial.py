"""A plain connection to a host that the configuration names, at an address that may be reached."""

import asyncio
import socket
from contextlib import suppress
from typing import Final

from coatcheck_sidecar.core.address import Forbidden, pick
from coatcheck_sidecar.ports import NotSent

CONNECT_S: Final = 10.0
FLUSH_S: Final = 1.0
"""An upstream that reads nothing is not waited for."""
BUFFER_BYTES: Final = 65_536
"""Read ahead of one tunnel, each way."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(host: str, port: int, *, is_private_ok: bool) -> Streams:
    """Connect to the one address that was checked; raises `NotSent`."""
    try:
        async with asyncio.timeout(CONNECT_S):
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )
            address = pick([str(info[4][0]) for info in found], is_private_ok=is_private_ok)
            return await asyncio.open_connection(address, port, limit=BUFFER_BYTES)
    except Forbidden as error:
        raise NotSent(f"{host}: {error}") from error
    except TimeoutError as error:
        raise NotSent(f"{host}:{port} did not answer within {CONNECT_S:g} s") from error
    except (OSError, UnicodeError) as error:
        raise NotSent(f"{host}:{port}: {error}") from error


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close, whatever state it is in; what was written last has a moment to go out."""
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            await writer.wait_closed()
    writer.transport.abort()
