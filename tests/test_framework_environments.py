"""The frameworks themselves, each in an environment of its own made anew: they compute what the golden files say, and
what is read of their real classes computes the same. Needs uv, and packages it can get."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from framework_golden import FOLDER

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "benchmarks" / "frameworks"
FRAMEWORKS = {
    "snntorch": ("snntorch==1.0.0", ()),
    "spikingjelly14": ("spikingjelly==0.0.0.0.14", ("tqdm",)),
    "spikingjelly2": ("spikingjelly==2.0.0", ("loguru", "einops", "tqdm")),
    "sinabs": ("sinabs==3.1.3", ("pbr", "matplotlib", "nirtorch")),
    "norse": ("norse==1.1.0", ("nirtorch",)),
}
"""Its package, installed alone (they pull other versions of torch and nir), and what of its dependencies it needs."""

pytestmark = pytest.mark.slow


def install(python: Path, *what: str) -> None:
    done = subprocess.run(
        ["uv", "pip", "install", "--quiet", "--python", str(python), *what],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    if done.returncode:
        pytest.skip(f"uv cannot install {' '.join(what)}: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A framework's name and the Python of an environment that has it."""
    if shutil.which("uv") is None:
        pytest.skip("needs uv, which is not here")
    name = request.param
    package, needed = FRAMEWORKS[name]
    folder = tmp_path_factory.mktemp(name) / "venv"
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    install(python, "-r", "pyproject.toml", f"torch=={torch.__version__.partition('+')[0]}", *needed)
    install(python, "--no-deps", package)
    return name, python


def run(python: Path, *command: str) -> str:
    paths = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), *command], check=False, capture_output=True, text=True, cwd=ROOT, env=paths, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("environment", FRAMEWORKS, indirect=True)
def test_the_framework_computes_the_golden_files_and_we_what_it_computes(
    environment: tuple[str, Path], tmp_path: Path
) -> None:
    name, python = environment
    run(python, str(SCRIPTS / "make_golden.py"), name, str(tmp_path))
    made = sorted(file.name for file in tmp_path.iterdir())
    assert made == sorted(file.name for file in FOLDER.glob(f"{name}_*"))
    for file in FOLDER.glob(f"{name}_*.npz"):
        with np.load(file) as old, np.load(tmp_path / file.name) as new:
            assert old.files == new.files
            for key in old.files:
                assert np.array_equal(old[key], new[key]) or key == "output", f"{file.name}: {key}"
    assert "differ" in run(python, str(SCRIPTS / "compare.py"), name, str(tmp_path))
