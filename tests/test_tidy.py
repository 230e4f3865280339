"""The habits of the house that no linter knows: sizes, rooms, names."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "client" / "coatcheck"
SIDECAR = ROOT / "sidecar" / "coatcheck_sidecar"
TREES = ("client", "sidecar", "tests", "bench", "examples", "deploy")
SOURCES = sorted(path for tree in TREES for path in (ROOT / tree).rglob("*.py"))
CORE = sorted((SIDECAR / "core").glob("*.py"))

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
CLIENT_LINES_MAX = 1_500
CORE_FORBIDDEN = {"asyncio", "logging", "os", "random", "secrets", "socket", "threading", "time"}
TASK_MAKERS = {"asyncio", "loop", "get_running_loop", "get_event_loop", "new_event_loop"}
STRAY = re.compile(r"/(?:work|root)/|\b(?:pypi|pythonhosted|npmjs)\.(?:org|com)\b")
TEXTS = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".sh", ""}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type not in quiet and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes_and_tasks(path: Path) -> None:
    source = path.read_text().splitlines()
    assert len(source) <= FILE_LINES_MAX
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name}: {lines} lines"
        if isinstance(node, ast.Attribute) and node.attr == "create_task":
            maker = node.value.func if isinstance(node.value, ast.Call) else node.value
            name = getattr(maker, "attr", getattr(maker, "id", ""))
            excused = path.name == "tasks.py" or "noqa: TID251 - " in source[node.lineno - 1]
            assert name not in TASK_MAKERS or excused, f"line {node.lineno}: {name}.create_task"


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_is_pure_and_tested(path: Path) -> None:
    tree = parse(path)
    assert not CORE_FORBIDDEN & {name.partition(".")[0] for name in imports(tree)}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    if path.stem not in ("__init__", "model"):  # a package's docstring; plain values
        assert (ROOT / "tests" / "core" / f"test_{path.stem}.py").is_file()


def test_the_wire_is_all_that_the_sidecar_shares_with_the_client() -> None:
    for path in SIDECAR.rglob("*.py"):
        shared = {name for name in imports(parse(path)) if name.partition(".")[0] == "coatcheck"}
        assert path.name == "testing.py" or shared <= {"coatcheck.wire"}, path


def test_import_roots_are_no_packages() -> None:
    assert not (ROOT / "client" / "__init__.py").exists()
    assert not (ROOT / "sidecar" / "__init__.py").exists()


def test_client_stays_small() -> None:
    kept = [path for path in CLIENT.rglob("*.py") if CLIENT / "http" not in path.parents]
    assert sum(map(code_lines, kept)) <= CLIENT_LINES_MAX


def test_no_machine_and_no_registry_is_named() -> None:
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = parts[0] in {"dist", "LICENSE"} or any(
            part.startswith(".") and part != ".ci" for part in parts
        )
        if not hidden and path.is_file() and path.suffix in TEXTS:
            found = STRAY.search(path.read_text(errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)}: {found}"


def test_documents_name_tests_that_exist() -> None:
    named = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
    for page in (ROOT / "docs").rglob("*.md"):
        for path, name in named.findall(page.read_text()):
            assert f"def {name}(" in (ROOT / path).read_text(), f"{page.name}: {path}::{name}"
