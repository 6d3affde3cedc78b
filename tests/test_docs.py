"""Commands and code of README and docs run as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from snncompile.__main__ import main

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "quick-start.md")
GUIDES = (ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "how-to").glob("*.md")))
SET_UP = "pip install uv && "
BLOCK = re.compile(r"^```(\w+)( fails)?\n(.*?)^```", re.S | re.M)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def commands() -> list[str]:
    """Every `uv run snncompile ...` of the pages, once, compile first."""
    lines = [line.removeprefix(SET_UP) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return sorted(
        {line for line in lines if line.startswith("uv run snncompile ")},
        key=lambda line: ("--target" not in line, line),
    )


class Reader:
    """Someone who does what a guide says, in a folder of their own; in this process, which has torch loaded already."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        monkeypatch.chdir(folder)

    def take(self, language: str, text: str, fails: bool) -> None:
        """A block: commands, a program, or a file named in its first line."""
        if language == "sh":
            for line in text.splitlines():
                self.type(line, int(fails))
        elif language == "python":
            exec(text, {"__name__": "__main__"})
        else:
            name = text.splitlines()[0]
            assert name.startswith("# file: "), f"a block of {language} that no test runs"
            (self.folder / name.removeprefix("# file: ")).write_text(text)

    def type(self, line: str, expected: int) -> None:
        assert line.startswith("uv run snncompile "), line
        words, _, into = line.partition(" > ")
        self.monkeypatch.setattr(sys, "argv", shlex.split(words)[2:])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capsys.readouterr()
        assert int(ended.value.code or 0) == expected, f"{line}: {out[-500:]} {err}"
        assert "internal error" not in err
        if into:
            (self.folder / into).write_text(out)


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


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_every_block_of_a_guide_runs_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    found = BLOCK.findall(page.read_text())
    assert found
    reader = Reader(tmp_path, monkeypatch, capsys)
    for language, fails, text in found:
        reader.take(language, text, bool(fails))


def test_the_readme_network_compiles(tmp_path: Path) -> None:
    import torch

    from snncompile.compiler import compile_file

    (code,) = blocks(ROOT / "README.md", "python")
    scope: dict[str, object] = {}
    exec(code, scope)
    torch.save(scope["network"], tmp_path / "model.pt")
    compiled = compile_file(tmp_path / "model.pt", "loihi2-sim", tmp_path / "out")
    assert compiled.report["neurons"] == 32 * 28 * 28 + 10


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "hw_models" / "README.md"], ids=lambda p: p.name
)
def test_links_and_files_named_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for name in re.findall(
        r"`((?:snncompile|backends|hw_models|examples|docs|tests|benchmarks)/[\w./-]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), name
