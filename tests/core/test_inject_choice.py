import pytest

from coatcheck_sidecar.config import ADMIN_LISTEN, LISTEN, Config
from coatcheck_sidecar.core.inject_choice import (
    ADMIN_PORT,
    DATA_PATH,
    LOOPBACK_PORT,
    SOCKET,
    Choice,
    Refused,
)


def test_it_says_what_the_sidecar_does_by_itself() -> None:
    config = Config()
    assert (ADMIN_LISTEN.port, LISTEN.port) == (ADMIN_PORT, LOOPBACK_PORT)
    assert (str(config.socket), str(config.data)) == (SOCKET, DATA_PATH)
    choice = Choice(store="s3://b/p", image="i", version="1")
    assert choice.mode == config.mode


def test_a_refusal_has_a_code_and_a_reason() -> None:
    with pytest.raises(Refused, match="because") as caught:
        raise Refused("code", "because")
    assert (caught.value.code, caught.value.reason) == ("code", "because")
