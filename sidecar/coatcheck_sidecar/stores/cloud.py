"""What all stores of clouds have in common: endpoints, limits, and what the environment says."""

import ipaddress
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from coatcheck_sidecar.stores.objects import Limits

if TYPE_CHECKING:
    from obstore.store import ClientConfig

SECRETS: Final = {
    "AWS": "AWS_ACCESS_KEY_ID and its secret",
    "AZURE": "AZURE_STORAGE_ACCOUNT_KEY",
    "GOOGLE": "GOOGLE_APPLICATION_CREDENTIALS",
}
REQUEST_S_MAX: Final = 600
"""The client's own limit for a whole request: far beyond ours, which know the body's length."""


def client_options(limits: Limits, *, allows_http: bool) -> "ClientConfig":
    """Of the HTTP client, for obstore."""
    return {
        "allow_http": allows_http,
        "connect_timeout": timedelta(seconds=limits.connect_s),
        "timeout": timedelta(seconds=REQUEST_S_MAX),
    }


def check_endpoint(endpoint: str, cloud: str, *, environ: Mapping[str, str]) -> None:
    """Raises `ValueError`; `cloud` is what the variables' names begin with."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"endpoint {endpoint!r} is no http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError(f"the endpoint holds credentials; set {SECRETS[cloud]}")
    allows_http = _is_on(environ.get(f"{cloud}_ALLOW_HTTP"))
    if parts.scheme == "http" and not allows_http and not _is_loopback(parts.hostname):
        raise ValueError(
            f"endpoint {endpoint!r} would send runs unencrypted; use https://, or set "
            f"{cloud}_ALLOW_HTTP=true if the network between is yours"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_on(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "on")


def first(environ: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    """The first of these variables that says something."""
    return next((environ[key] for key in keys if environ.get(key)), None)
