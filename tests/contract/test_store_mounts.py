from pathlib import Path

import pytest

from coatcheck_sidecar.stores import mounts
from coatcheck_sidecar.stores.mounts import network_file_system

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /mnt/share rw,relatime shared:5 - nfs4 server:/export rw,vers=4.2
31 30 254:1 / /mnt/share/local rw,relatime - xfs /dev/vdb rw
32 22 0:27 / /mnt/with\040space rw,relatime shared:6 master:2 - cifs //server/share rw
33 22 0:28 / /mnt/bucket rw - fuse.s3fs s3fs rw
34 22 0:29 / /mnt/usb rw - fuseblk /dev/sdb1 rw
35 22 0:30 / /mnt/twice rw - nfs server:/old rw
36 35 0:31 / /mnt/twice rw - tmpfs tmpfs rw
37 22 0:32 / /mnt/vm rw - 9p share rw
a line of another time
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", None),
        ("/mnt", None),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/runs", "nfs4"),
        ("/mnt/shared", None),
        ("/mnt/share/local/runs", None),
        ("/mnt/with space/runs", "cifs"),
        ("/mnt/bucket/runs", "fuse.s3fs"),
        ("/mnt/usb/runs", None),
        ("/mnt/twice/runs", None),
        ("/mnt/vm", "9p"),
    ],
)
def test_the_innermost_mount_decides(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), mountinfo=MOUNTINFO) == kind


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/mnt/share")
    assert network_file_system(tmp_path / "link" / "runs", mountinfo=MOUNTINFO) == "nfs4"


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(f"1 0 0:1 / {tmp_path} rw - nfs server:/x rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "mountinfo")
    assert network_file_system(tmp_path / "runs") == "nfs"
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "none")
    assert network_file_system(tmp_path / "runs") is None
