"""A base image made of this machine's Python, for builds where no image can be pulled.

    write_base(Path("base.tar"))        # then: podman import base.tar localhost/coatcheck-base

It is what `python:3.13-slim` is to the Dockerfile: a Python in /usr/local, pip, a shell for the
stages that build, certificates, and no bytecode, as that one has none.
"""

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pip

PREFIX: Final = Path("/usr/local")
VERSION: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
LEFT_OUT: Final = {
    "__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test",
    "tests", "tkinter", "turtledemo", "_tkinter",
}  # fmt: skip
FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
FOLDERS: Final = {
    "tmp": 0o1777,
    "var/tmp": 0o1777,
    "run": 0o755,
    "var/lib": 0o755,
    "root": 0o700,
    "proc": 0o555,
}
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
WHEELS_NEED: Final = (
    "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1", "libstdc++.so.6",
    "libutil.so.1",
)  # fmt: skip
"""What compiled wheels may take for granted by PEP 513, of a system without a display."""
SHARED: Final = re.compile(r"(?:=> )?(/\S+) \(0x")


def write_base(path: Path) -> None:
    """A root file system, as a tar archive."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    with tarfile.open(path, "w") as tar:
        for name, mode in FOLDERS.items():
            _add_folder(tar, name, mode=mode)
        for name, text in FILES.items():
            _add_text(tar, name, text)
        executable = Path(sys.executable).resolve()
        shell = Path(shutil.which("sh") or "/bin/sh").resolve()
        _add(tar, executable, PREFIX / "bin" / VERSION)
        for link in ("python", "python3"):
            _add_link(tar, PREFIX / "bin" / link, VERSION)
        _add(tar, shell, Path("/bin/sh"))
        _add_tree(tar, stdlib, PREFIX / "lib" / VERSION)
        for package in _pip():
            _add_tree(tar, package, PREFIX / "lib" / VERSION / "site-packages" / package.name)
        if CERTIFICATES.exists():
            _add(tar, CERTIFICATES.resolve(), CERTIFICATES)
        modules = [each for each in _files(stdlib / "lib-dynload") if each.suffix == ".so"]
        libraries = _libraries([executable, shell, *modules])
        for library in sorted(libraries):
            _add(tar, library.resolve(), _place(library, libraries))


def _pip() -> list[Path]:
    package = Path(pip.__file__).parent
    return [package, *package.parent.glob("pip-*.dist-info")]


def _libraries(programs: list[Path]) -> set[Path]:
    """What the loader needs for them, itself included, under the names that it looks for."""
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False)
    found = {Path(each) for each in SHARED.findall(told.stdout)}
    return found | {_libc(found).parent / name for name in WHEELS_NEED}


def _libc(libraries: set[Path]) -> Path:
    (libc,) = (each for each in libraries if each.name.startswith("libc.so"))
    return libc


def _place(library: Path, libraries: set[Path]) -> Path:
    """Where the loader looks for it, and everybody may read it: libc is in such a folder."""
    if library.is_relative_to("/lib") or library.is_relative_to("/lib64"):
        return library
    return _libc(libraries).parent / library.name


def _add(tar: tarfile.TarFile, source: Path, target: Path) -> None:
    info = tar.gettarinfo(source, arcname=_name(target))
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    with source.open("rb") as content:
        tar.addfile(info, content)


def _add_tree(tar: tarfile.TarFile, source: Path, target: Path) -> None:
    for path in _files(source):
        _add(tar, path, target / path.relative_to(source))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in LEFT_OUT and not path.name.startswith("config-"):
                yield from _files(path)
        elif path.is_file() and path.name.partition(".")[0] not in LEFT_OUT:
            yield path.resolve() if path.is_symlink() else path


def _add_folder(tar: tarfile.TarFile, name: str, *, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    info, content = tarfile.TarInfo(name), text.encode()
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _add_link(tar: tarfile.TarFile, path: Path, to: str) -> None:
    info = tarfile.TarInfo(_name(path))
    info.type, info.linkname = tarfile.SYMTYPE, to
    tar.addfile(info)


def _name(path: Path) -> str:
    return str(path.relative_to("/"))
