"""What the layout promises: imports flow one way, files are short, the root shows the subsystems, imports are light."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import onnxmx as mx

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "onnxmx"
ORDER = ["errors", "files", "builder", "models", "trainer", "exporter", "serve", "cli"]
"""Each may import itself and those before it; the package's own __init__ gathers the public names of all."""
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "sympy", "rich", "starlette", "uvicorn", "PIL", "matplotlib")
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported(name: str, nodes: Iterator[ast.AST]) -> set[str]:
    """The modules of this package that `nodes` import: `from onnxmx.a import b` is a.b where that is a module."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                if below != "onnxmx.__version__":  # the one name that the package itself holds
                    found.add(below if below in MODULES else str(node.module))
    return {m for m in found if m in MODULES} - {name}


def at_import(name: str) -> Iterator[ast.AST]:
    """The statements that run when a module is imported: not those of functions, nor of `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(tree(name).body)
    while waiting:
        node = waiting.pop()
        yield node
        checking = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not checking and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting.extend(ast.iter_child_nodes(node))


def subsystem(module: str) -> str:
    return module.split(".")[1]


NAMESPACES = {f"onnxmx.{name}" for name in mx._MODULES} - {f"onnxmx.{name}" for name in ORDER}
"""Modules that gather public names of one other, as the package's own __init__ does; nothing here imports them."""


@pytest.mark.parametrize("name", [m for m in MODULES if "." in m and m not in NAMESPACES])
def test_imports_flow_one_way(name: str) -> None:
    home = subsystem(name)
    if home == "__main__":
        home = "cli"
    assert home in ORDER, f"{home} is new: give it a place in ORDER and in the design"
    allowed = ORDER[: ORDER.index(home) + 1]
    for module in imported(name, ast.walk(tree(name))):
        assert "." in module, f"{name} imports the package itself; name the module that it needs"
        assert subsystem(module) in allowed, f"{name} imports {module}: imports flow {' <- '.join(ORDER)}"


@pytest.mark.parametrize("name", sorted(NAMESPACES))
def test_a_namespace_is_another_module_by_a_shorter_name(name: str) -> None:
    (home,) = {n.module for n in ast.walk(tree(name)) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"}
    assert home is not None
    short, long = importlib.import_module(name), importlib.import_module(home)
    assert getattr(mx, name.removeprefix("onnxmx.")) is short
    assert short.__all__ is long.__all__
    assert all(getattr(short, public) is getattr(long, public) for public in long.__all__)


def test_type_checkers_see_every_public_name() -> None:
    checked = next(n for n in tree("onnxmx").body if isinstance(n, ast.If))
    seen = {alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {*mx._MODULES, *mx._NAMES}


def test_names_are_imported_from_a_namespace_before_anything_else() -> None:
    code = "from onnxmx.layers import Dense; import onnxmx.layers; import onnxmx as mx; assert mx.layers.Dense is Dense"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_no_module_imports_itself_by_a_detour() -> None:
    try:
        list(TopologicalSorter({name: imported(name, at_import(name)) for name in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short_and_explained(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, "a file past 400 lines is asking to be two"
    assert ast.get_docstring(tree(name)), "a file begins by saying what it is for"


def test_the_root_shows_the_subsystems() -> None:
    for name in ("builder", "trainer", "exporter", "serve", "models"):
        link = ROOT / name
        assert link.is_symlink()
        assert link.resolve() == (PACKAGE / name).resolve()
        assert not link.readlink().is_absolute()


def test_git_holds_no_large_file() -> None:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    large = {str(f): f.stat().st_size for f in files if f.is_file() and f.stat().st_size > 200_000}
    assert not large


def test_importing_the_package_is_light() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import onnxmx"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in run.stderr.splitlines()}
    assert "onnxmx" in loaded
    assert not loaded & set(HEAVY)


def test_the_keys_of_a_files_metadata_stand_in_one_place() -> None:
    keys = set(re.findall(r'"(onnxmx\.\w+)"', MODULES["onnxmx.builder.metadata"].read_text()))
    assert len(keys) > 5
    found = {
        (name, node.value)
        for name in MODULES
        if name != "onnxmx.builder.metadata"
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Constant) and node.value in keys
    }
    assert not found, "use the constant in onnxmx/builder/metadata.py"
