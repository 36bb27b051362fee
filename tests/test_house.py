"""The house rules a machine can check."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[1]
FLOORS = ("kernels", "runtime", "calibration", "export", "train")
FILES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
MAY_IMPORT = {
    "kernels": {"numpy"},
    "runtime": {"numpy"},
    "calibration": {"numpy", "onnx"},
    "export": {"numpy", "onnx", "torch", "safetensors"},
    "train": {"numpy", "onnx", "torch", "safetensors", "accelerate", "tqdm", "cv2"},
}
NEVER = {
    "kernels": {"torch", "onnx"},
    "runtime": {"torch", "onnx"},
    "calibration": {"torch"},
    "export": set(),
    "train": set(),
}
AT_THE_ROOT = {
    "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "__init__.py", "calibration",
    "constraints.txt", "docs", "export", "jetson", "kernels", "py.typed", "pyproject.toml",
    "runtime", "tests", "train",
}  # fmt: skip
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
NAMES_THAT_SAY_NOTHING = {
    "util", "utils", "helper", "helpers", "common", "misc", "core", "base", "manager",
}  # fmt: skip


def _imports(path: Path) -> list[tuple[ast.stmt, str, bool]]:
    """Return each import as its node, the target's first name and whether it is at module level.

    A relative import's target is the folder it reaches.
    """
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in tree.body:
        if isinstance(node, ast.If):  # TYPE_CHECKING blocks stay module level.
            top |= set(map(id, node.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name.split(".")[0], id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node, (node.module or "").split(".")[0], id(node) in top))
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[:-1]
            reached = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            found.append((node, reached[0], id(node) in top))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_climb_down(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    lower = set(FLOORS[: FLOORS.index(floor) + 1])
    for node, name, is_at_module_level in _imports(path):
        where = f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
        assert name != "saymask", f"{where}: inside the library, import relatively"
        if isinstance(node, ast.ImportFrom) and node.level:
            assert name in lower, f"{where}: {floor} stands on {sorted(lower)} only"
            continue
        assert name not in NEVER[floor], f"{where}: {floor} never imports it"
        if is_at_module_level and name not in sys.stdlib_module_names:
            assert name in MAY_IMPORT[floor], f"{where}: import it in the function that needs it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_something(path: Path) -> None:
    assert path.stem not in NAMES_THAT_SAY_NOTHING
    assert path.parent.name not in NAMES_THAT_SAY_NOTHING
    assert len(path.relative_to(ROOT).parts) <= 3, "folders nest one level at most"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_has_a_caption_and_every_public_name_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    caption = ast.get_docstring(tree)
    assert caption, "a module opens with one sentence"
    for node in tree.body:
        is_public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
        if is_public:
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_mutable_state_and_no_work_at_import(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno} does something"
        assert not isinstance(node, ast.For | ast.While | ast.With), f"line {node.lineno} runs"
        names = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(getattr(node, "value", None), ast.List | ast.Set):
            assert all(getattr(name, "id", "") == "__all__" for name in names), (
                f"line {node.lineno}: a module-level constant is a tuple or a frozenset"
            )


def test_packages_are_complete() -> None:
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {"saymask"} | {
        ".".join(("saymask", *path.parent.relative_to(ROOT).parts))
        for floor in FLOORS
        for path in (ROOT / floor).rglob("__init__.py")
    }
    assert listed == found


def test_nothing_else_lies_at_the_root() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    tops = {line.split("/")[0] for line in tracked}
    assert {top for top in tops if not top.startswith(".")} <= AT_THE_ROOT


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_is_sorted_and_true(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = ast.literal_eval(node.value)
            assert names == sorted(names, key=_order)
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(("saymask", *(part for part in parts if part != "__init__")))
            assert all(hasattr(importlib.import_module(module), name) for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_has_its_test(path: Path) -> None:
    relative = path.relative_to(ROOT)
    if path.stem == "__init__":
        return
    mirror = ROOT / "tests" / relative.parent / f"test_{path.stem}.py"
    assert mirror.is_file(), f"{relative} is tested by {mirror.relative_to(ROOT)}"


def _order(name: str) -> tuple[int, str]:
    """Constants, classes, functions: ruff's order of a sorted `__all__`."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_no_absolute_path_and_no_registry_host() -> None:
    words = ("/" + "home/", "/" + "root/", "/" + "work/", "pypi" + ".org")
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "*.json", "Makefile"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in tracked:
        text = (ROOT / name).read_text()
        assert not any(word in text for word in words), name
