"""The emitted folder alone, in empty environments of Python 3.10 to 3.13: it runs, and its spikes are the same."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lava_networks import random_cut, random_network, random_payloads, seal
from test_lava_stock import payloads_of, stock_network

from snncompile.reference import run_integer

pytestmark = pytest.mark.slow
VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def install_line() -> str:
    """What compat.py tells a person to install; the emitted program says so where Lava is missing."""
    path = Path(__file__).parent.parent / "backends" / "lava" / "emitted" / "compat.py"
    spec = importlib.util.spec_from_file_location("compat_of_lava", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.INSTALL)


def interpreter_of(version: str) -> str:
    """One that pyenv has, or else the version: uv looks for it, and may download it."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(pyenv.glob(f"{version}.*/bin/python"))
    return str(found[-1]) if found else version


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds what the install line installs, and nothing else."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv to make environments")
    folder = tmp_path_factory.mktemp(f"python{request.param}")
    made = subprocess.run(
        [
            uv,
            "venv",
            "--seed",
            "--no-project",
            "--no-config",
            "--python",
            interpreter_of(request.param),
            str(folder / "env"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no Python {request.param} here: {made.stderr.strip().splitlines()[-1]}")
    interpreter = folder / "env" / "bin" / "python"
    line = install_line().replace("pip install", f"{interpreter} -m pip install -q --disable-pip-version-check")
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the install line fails on Python {request.param}: {done.stderr.strip().splitlines()[-1]}")
    version = subprocess.run([interpreter, "-V"], capture_output=True, text=True, check=True).stdout
    numpy = subprocess.run(
        [interpreter, "-c", "import numpy; print(numpy.__version__)"], capture_output=True, text=True, check=True
    ).stdout
    print(f"{version.strip()}, numpy {numpy.strip()}", file=sys.stderr)
    return interpreter


@pytest.mark.parametrize("options", [(), ("--style", "stock"), ("--placement",)], ids=["fused", "stock", "placement"])
def test_emitted_folder_runs_alone(python: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    network = stock_network(1) if "stock" in options else random_network(1)
    payloads = payloads_of(network, 1, 5) if "stock" in options else random_payloads(1, 5)
    graph = random_cut(network, 1, most=2) if "--placement" in options else None
    directory = shutil.move(seal(tmp_path, network, graph=graph) / "lava", tmp_path / "alone")
    np.savez(tmp_path / "data.npz", payloads=payloads)
    command = [python, directory / "run.py", "--data", tmp_path / "data.npz", "--out", tmp_path / "out.npz"]
    command += ["--record", "all", "--membranes", "all", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env={"PATH": "/usr/bin"})
    assert done.returncode == 0, done.stderr
    expected = run_integer(network, payloads)
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["output"], expected.output)
        for population in network.populations:
            name = population.name
            np.testing.assert_array_equal(out[f"payloads/{name}"], expected.payloads[name], err_msg=name)
            np.testing.assert_array_equal(out[f"membranes/{name}"], expected.membranes[name], err_msg=name)
