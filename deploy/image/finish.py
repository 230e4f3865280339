"""Make a virtual environment fit for an image: python finish.py VENV, with the VENV's own Python.

What only compilers, debuggers and type checkers read is dropped. The bytecode of what is left, and
of the standard library, is put into VENV/bytecode, for PYTHONPYCACHEPREFIX.
"""

import compileall
import py_compile
import re
import struct
import sys
import sysconfig
from pathlib import Path

BYTECODE = "bytecode"
EMPTY = "empty"
"""An empty folder, to make others from."""
ELF_64_LITTLE = b"\x7fELF\x02\x01"
BUILT_FROM = {".c", ".cpp", ".h", ".pxd", ".pxi", ".pyi", ".pyx"}
NOT_RUN = re.compile(
    r"/(ensurepip|idlelib|lib2to3|pydoc_data|site-packages|dist-packages|test|tests|tkinter|"
    r"turtledemo|config-[^/]*|unittest|distutils)/"
)
"""Of the standard library, what no sidecar imports."""

SELDOM = re.compile(r"/pygments/(lexers|styles)/")
"""Hundreds of modules that none of our commands imports."""


def drop(venv: Path) -> None:
    """Delete sources of extension modules, type stubs and tests."""
    packages = Path(sysconfig.get_path("purelib"))
    for path in packages.rglob("*"):
        is_test = {"test", "tests"} & set(path.relative_to(packages).parts[1:-1])
        if path.is_file() and (path.suffix in BUILT_FROM or is_test):
            path.unlink()
    (venv / EMPTY).mkdir()


def strip_all(venv: Path) -> None:
    """Cut symbols and debug sections off extension modules: of uvloop's 14 MB they are 12."""
    for path in venv.rglob("*.so*"):
        if path.is_file() and not path.is_symlink():
            data = stripped(path.read_bytes())
            if data is not None:
                path.write_bytes(data)


def stripped(data: bytes) -> bytes | None:
    """A shared object less what lies behind its last segment; `None` for what is none.

    The loader goes by program headers alone, so the section headers, which describe the rest too,
    go with it. Slim images have no `strip`. Layout: elf(5), 64 bits, little-endian.
    """
    if data[:6] != ELF_64_LITTLE:
        return None
    (program_at,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    ends = [program_at + size * count]
    for number in range(count):
        offset, _, _, length = struct.unpack_from("<4Q", data, program_at + size * number + 8)
        ends.append(offset + length)
    kept = bytearray(data[: max(ends)])
    struct.pack_into("<Q", kept, 40, 0)  # e_shoff
    struct.pack_into("<2H", kept, 60, 0, 0)  # e_shnum, e_shstrndx
    return bytes(kept)


def compile_all(venv: Path) -> bool:
    """Whether all could be compiled. Nothing of it is ever held against its source's date."""
    sys.pycache_prefix = str(venv / BYTECODE)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    standard, own = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
    done = compileall.compile_dir(
        standard, quiet=1, rx=NOT_RUN, workers=0, maxlevels=20, invalidation_mode=mode
    )
    ours = compileall.compile_dir(
        own, quiet=1, rx=SELDOM, workers=0, maxlevels=20, invalidation_mode=mode
    )
    return bool(done and ours)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    drop(where)
    strip_all(where)
    sys.exit(not compile_all(where))
