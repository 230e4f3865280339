"""What the image's last touch does to extension modules."""

import shutil
import subprocess
import sys
from pathlib import Path

import msgpack._cmsgpack
import uvloop.loop

from deploy.image.finish import strip_all, stripped


def test_modules_get_smaller_and_still_load(tmp_path: Path) -> None:
    for module in (uvloop.loop, msgpack._cmsgpack):
        package = Path(str(module.__file__)).parent
        shutil.copytree(package, tmp_path / package.name)
    before = sum(path.stat().st_size for path in tmp_path.rglob("*.so"))
    strip_all(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.so")) < before / 2
    code = "import uvloop, msgpack; uvloop.new_event_loop().close(); print(msgpack.packb(1))"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ran.stdout == "b'\\x01'\n", ran.stderr


def test_what_is_no_module_stays() -> None:
    assert stripped(b"#!/bin/sh\n") is None
    assert stripped(b"\x7fELF\x01\x01") is None
