"""How a container of Azure Blob Storage is reached: account, endpoint, credentials."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult

from obstore.store import AzureStore

from coatcheck_sidecar.ports import Clock
from coatcheck_sidecar.stores.cloud import check_endpoint, client_options, first
from coatcheck_sidecar.stores.names import check_name
from coatcheck_sidecar.stores.objects import Limits, ObjectStore

if TYPE_CHECKING:
    from obstore.store import AzureConfig

CONTAINER: Final = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
"""Microsoft's naming rules for containers: 3 to 63, no two hyphens in a row."""
ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
ACCOUNT_KEYS: Final = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
KEY_KEYS: Final = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")
ENDPOINT_KEYS: Final = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT_URL")


def open_azure(
    url: SplitResult,
    query: Mapping[str, str],
    *,
    environ: Mapping[str, str],
    clock: Clock,
    limits: Limits,
) -> ObjectStore:
    """Open `az://container/prefix?account=&endpoint=`. Raises `ValueError`.

    What the query lacks is taken from `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ENDPOINT`,
    `AZURE_ALLOW_HTTP`; a key from `AZURE_STORAGE_ACCOUNT_KEY`. Without one, obstore finds a
    workload identity (`AZURE_CLIENT_ID`, `AZURE_TENANT_ID`, `AZURE_FEDERATED_TOKEN_FILE`) or a
    managed one in the process's environment, and renews its tokens.
    """
    container = url.netloc
    if not CONTAINER.fullmatch(container):
        raise ValueError(f"{container!r} is no name of a container")
    account = query.get("account") or first(environ, ACCOUNT_KEYS)
    if account is None or not ACCOUNT.fullmatch(account):
        raise ValueError(
            f"{account!r} is no storage account: set AZURE_STORAGE_ACCOUNT_NAME, or write ?account="
            if account
            else "whose container? set AZURE_STORAGE_ACCOUNT_NAME, or write ?account="
        )
    prefix = url.path.strip("/")
    if prefix:
        check_name(prefix)
    endpoint = query.get("endpoint") or first(environ, ENDPOINT_KEYS)
    config: AzureConfig = {"account_name": account}
    if endpoint:
        check_endpoint(endpoint, "AZURE", environ=environ)
        config["endpoint"] = endpoint
    if key := first(environ, KEY_KEYS):
        config["account_key"] = key
    backend = AzureStore(
        container,
        config=config,
        client_options=client_options(limits, allows_http=(endpoint or "").startswith("http:")),
        # A swap must never be sent twice; what may be repeated is repeated in `objects.py`.
        retry_config={"max_retries": 0},
    )
    return ObjectStore(
        backend,
        url=url.geturl(),
        prefix=f"{prefix}/" if prefix else "",
        clock=clock,
        limits=limits,
        lists_from_start=True,  # `startFrom` is new, inclusive, and not known to Azurite
    )
