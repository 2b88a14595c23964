"""The rooms of the package, and which of them may import which."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "recbole_vae"

RANKS = {
    "errors": 0, "version": 0,
    "options": 1, "storage": 1,
    "data": 2, "templates": 2,
    "nn": 3,
    "model": 4,
    "evaluation": 5,
    "training": 6,
    "plugin": 7,
    "serving": 8,
    "analysis": 9, "bench": 9,
    "compare": 10, "server": 10,
    "cli": 11,
    "__init__": 12, "__main__": 12,
}  # fmt: skip
"""A room imports from rooms of lower rank only, and from itself."""

MAY_IMPORT_PLUGIN = {"plugin", "cli", "__init__"}

pytestmark = pytest.mark.skipif(not PACKAGE.is_dir(), reason="the package's source is not beside the tests")


def module_name(path: Path) -> str:
    name = ".".join(("recbole_vae", *path.relative_to(PACKAGE).with_suffix("").parts))
    return name.removesuffix(".__init__") if name != "recbole_vae.__init__" else name


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split(".")[1]


@functools.cache
def imports(path: Path) -> set[str]:
    """Return the modules of this package that a file imports, also inside functions, but not those for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            for alias in node.names:
                both = {f"{node.module}.{alias.name}", str(node.module)} & set(MODULES)
                found |= {max(both, key=len)} if both else set()
    return found


def test_only_the_public_modules_stand_at_the_root() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py", "version.py"}


def test_imports_run_one_way() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in imports(path)
        if room(imported) != room(module) and RANKS[room(imported)] >= RANKS[room(module)]
    ]
    assert not wrong


def test_only_the_command_line_and_child_processes_import_the_plugin() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in imports(path)
        if room(imported) == "plugin" and room(module) not in MAY_IMPORT_PLUGIN
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imports(path) for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for imported in graph[module]:
                visit(imported, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("code", ["import recbole_vae", "from recbole_vae.cli.main import main; main(['--help'])"])
def test_a_light_start_imports_no_heavy_library(code: str) -> None:
    heavy = "{'torch', 'recbole', 'numpy', 'pandas', 'scipy', 'pydantic', 'jinja2'}"
    script = f"{code}\nimport sys\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
