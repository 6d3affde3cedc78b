"""Shared fixtures: golden texts, a compiled model, the folder of shared data."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a test process a core (pytest-xdist), and none takes both

settings.register_profile("default", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("default")

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(name, text): text must equal tests/golden/<name>.txt."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert text == path.read_text(), f"differs from {path}; --update-golden writes it anew"

    return check


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data sets of this workplace; users do not have them."""
    folder = Path(os.environ.get("SNNCOMPILE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs ../shared/data (whole data sets), which is not here")
    return folder


@pytest.fixture(scope="session")
def test_sets(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The test samples of every data set the checkpoints were trained on, as `--data` takes them."""
    sys.path.insert(0, str(ROOT / "examples"))
    import datasets

    folder = tmp_path_factory.mktemp("test_sets")
    made = {
        "cifar10": shared_data / "cifar10" / "cifar10_all_jpegbytes.npz",
        "nmnist": shared_data / "events" / "nmnist_small.npz",
    }
    for name, source in made.items():
        x, y = datasets.load(source, "test")
        np.savez(folder / f"{name}.npz", x=x.numpy(), y=y.numpy())
    written = {name: folder / f"{name}.npz" for name in made}
    return {"fashion": shared_data / "fashion-mnist", "mnist": shared_data / "mnist", **written}


@pytest.fixture(scope="session")
def fashion_model() -> Path:
    return ROOT / "examples" / "models" / "fashion_mtlif.pt"


@pytest.fixture(scope="session")
def fashion_data() -> Path:
    return ROOT / "examples" / "data" / "fashion_mnist_test_1k.npz"


@pytest.fixture(scope="session")
def fashion_program(tmp_path_factory: pytest.TempPathFactory, fashion_model: Path) -> Path:
    """The example model compiled for loihi2-sim; the sealed directory."""
    from snncompile.compiler import compile_file

    directory = tmp_path_factory.mktemp("compiled") / "fashion"
    compile_file(fashion_model, "loihi2-sim", directory)
    return directory
