"""The package list holds every folder with code, and the layout is the one the user fixed."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_on_disk_is_listed() -> None:
    mapped = {"snncompile": "snncompile", "backends": "snncompile.backends", "hw_models": "snncompile.hw_models"}
    found = set()
    for folder, package in mapped.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            below = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *below)))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_backend_is_an_entry_point() -> None:
    from snncompile.backend import backend_names

    assert set(backend_names()) == set(PROJECT["project"]["entry-points"]["snncompile.backends"]) == {"sim", "lava"}


def test_the_core_imports_no_backend() -> None:
    for path in (ROOT / "snncompile").rglob("*.py"):
        assert "snncompile.backends" not in path.read_text().replace('GROUP = "snncompile.backends"', "").replace(
            "`snncompile.backends`", ""
        ), path


def test_files_and_functions_stay_small() -> None:
    import ast

    for folder in ("snncompile", "backends"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            assert text.count("\n") <= 500, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert node.end_lineno - node.lineno + 1 <= 60, (path, node.name)
