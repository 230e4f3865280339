import asyncio
import socket

import pytest
from click.testing import CliRunner, Result

from coatcheck_sidecar.cli.group import cli
from coatcheck_sidecar.core.drain import Latch
from coatcheck_sidecar.metrics import Metrics
from coatcheck_sidecar.servers.admin import admin_server
from coatcheck_sidecar.servers.hooks import Hooks


class View:
    is_started = True
    journal_is_dead = False


class Drain:
    def begin(self, cause: str, *, grace_s: float | None = None) -> Latch:
        raise AssertionError("a health check drains nothing")

    async def barrier(self) -> bool:
        raise AssertionError("a health check waits for nothing")


def ask(*args: str, listen: str) -> Result:
    env = {"COATCHECK_ADMIN_LISTEN": listen}
    return CliRunner().invoke(cli, ["health", *args], env=env)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # noqa: S104 - asked, never bound
async def test_health_is_what_the_sidecar_says(host: str) -> None:
    view = View()
    hooks = Hooks(Drain(), token="")
    render = Metrics(version="1").render
    server = admin_server(view, render, hooks=hooks, host="127.0.0.1", port=0)
    await server.start()
    listen = f"{host}:{server.port}"
    try:
        well = await asyncio.to_thread(ask, listen=listen)
        assert (well.exit_code, well.output) == (0, "ok\n")
        view.journal_is_dead = True
        assert (await asyncio.to_thread(ask, listen=listen)).exit_code == 0
        unready = await asyncio.to_thread(ask, "--ready", listen=listen)
        assert unready.exit_code == 1
        assert "journal is dead" in unready.output
    finally:
        await server.close()


def test_nobody_there_is_unwell() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        result = ask(listen=f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.exit_code == 1
    assert "Error: 127.0.0.1" in result.output


def test_mistakes_in_the_settings_are_told() -> None:
    result = ask(listen="nonsense")
    assert result.exit_code == 1
    assert "ADMIN_LISTEN" in result.output
