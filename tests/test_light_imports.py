"""What is quick stays quick: the libraries that take seconds are not loaded before something needs them."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numba", "nir", "h5py", "lava", "plotly", "scipy.sparse", "pymetis", "jinja2")

SCRIPT = """
import contextlib, io, sys
sys.argv = ["snncompile", *{words!r}]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    from snncompile.__main__ import main
    main()
print([name for name in {heavy!r} if name in sys.modules])
"""


def loaded(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["diff", "--help"], ["targets"]])
def test_a_quick_command_loads_nothing_heavy(words: list[str]) -> None:
    assert loaded(SCRIPT.format(words=words, heavy=HEAVY)) == "[]"


def test_importing_the_package_loads_nothing_at_all_and_names_are_found_on_use() -> None:
    names = (*HEAVY, "numpy", "rich", "click", "pydantic")
    ask = f"[name for name in {names!r} if name in sys.modules]"
    assert loaded(f"import sys, snncompile; print({ask})") == "[]"
    found = loaded("import snncompile as sc; print(sc.targets()[0], callable(sc.compile), 'load' in dir(sc))")
    assert found == "loihi1-sim True True"
    assert "plotly" not in loaded(f"import sys, snncompile.api; print({ask})")
