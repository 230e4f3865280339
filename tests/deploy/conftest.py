"""Images are built once, by whichever test asks first; there is one storage for all processes."""

import pytest

from tests.deploy.podman import Podman, build_image, home, why_not


@pytest.fixture(scope="session")
def podman() -> Podman:
    """Commands of podman; skips where there is none that works."""
    if why := why_not():
        pytest.skip(why)
    return Podman(home())


@pytest.fixture(scope="session")
def engine(podman: Podman) -> Podman:
    """The same, with the sidecar's image built from this tree."""
    build_image(podman)
    return podman
