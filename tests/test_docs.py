"""Commands and code of README and docs run as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "quick-start.md")
SET_UP = "pip install uv && "


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def commands() -> list[str]:
    """Every `uv run snncompile ...` of the pages, once, compile first."""
    lines = [line.removeprefix(SET_UP) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return sorted(
        {line for line in lines if line.startswith("uv run snncompile ")}, key=lambda line: "--target" not in line
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def test_there_are_commands() -> None:
    assert len(commands()) >= 6
    assert all("pytest" in block or "snncompile" in block for page in PAGES for block in blocks(page, "sh"))


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_docs_runs(command: str, workplace: Path) -> None:
    if "lava" in command:
        pytest.importorskip("lava", reason="lava-nc is not installed")
    words = shlex.split(command)[2:]
    done = subprocess.run([sys.executable, "-m", *words], cwd=workplace, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readme_network_compiles(tmp_path: Path) -> None:
    import torch

    from snncompile.compile import compile_file

    (code,) = blocks(ROOT / "README.md", "python")
    scope: dict[str, object] = {}
    exec(code, scope)
    torch.save(scope["network"], tmp_path / "model.pt")
    compiled = compile_file(tmp_path / "model.pt", "loihi2-sim", tmp_path / "out")
    assert compiled.report["neurons"] == 32 * 28 * 28 + 10


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "docs").glob("*.md")), ROOT / "hw_models" / "README.md"], ids=lambda p: p.name
)
def test_links_and_files_named_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for name in re.findall(
        r"`((?:snncompile|backends|hw_models|examples|docs|tests|benchmarks)/[\w./-]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), name
