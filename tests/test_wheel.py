"""Without this file the wheel could lose the kernels, ship the tests, or shadow somebody else's package.

And the locks could fall behind pyproject.toml, or tie every user to one index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"])
    return Path(built)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the wheel's content, its scripts and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    return target


def run(installed: Path, empty: Path, *command: str) -> str:
    """Output of a command, run in an empty directory where only the installed wheel can be imported from."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_these_top_level_names(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert names == {"wspace", "wspace_kernels", f"wspace-{PROJECT['version']}.dist-info"}


def test_the_wheel_has_every_module_and_type_marker(wheel: Path) -> None:
    modules = {p.relative_to(ROOT) for p in (ROOT / "wspace").rglob("*.py")}
    modules |= {p.relative_to(ROOT / "kernels") for p in (ROOT / "kernels").rglob("*.py")}
    wanted = {str(p) for p in modules} | {"wspace/py.typed"}
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_installs_and_imports_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    code = "import wspace, wspace_kernels; print(wspace.__file__); print(wspace_kernels.__file__)"
    places = run(installed, tmp_path, sys.executable, "-c", code).split()
    assert places == [str(installed / "wspace/__init__.py"), str(installed / "wspace_kernels/__init__.py")]


def test_the_command_starts_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    assert "run" in run(installed, tmp_path, str(installed / "bin" / "wspace"), "--help")


def pins(lock: str, python: str) -> dict[str, str]:
    """The version of each package that a lock installs on that Python."""
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line.rstrip("\\ ")) for line in lines if line[:1].isalnum()]
    where = {"python_full_version": f"{python}.0", "python_version": python, "sys_platform": "linux"}
    chosen = [r for r in requirements if r.marker is None or r.marker.evaluate(where)]
    assert len({r.name for r in chosen}) == len(chosen), "two versions of one package"
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in chosen}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.lock", ("data", "viz", "demo")), ("requirements-dev.lock", ("data", "viz", "demo", "dev"))],
)
def test_the_lock_has_every_dependency_within_its_bound(lock: str, extras: tuple[str, ...], python: str) -> None:
    wanted = [*PROJECT["dependencies"], *(d for extra in extras for d in PROJECT["optional-dependencies"][extra])]
    have = pins(lock, python)
    for need in map(Requirement, wanted):
        if need.name != PROJECT["name"]:
            assert need.specifier.contains(have[canonicalize_name(need.name)]), need


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_dev_lock_changes_no_version_of_the_runtime(python: str) -> None:
    assert pins("requirements.lock", python).items() <= pins("requirements-dev.lock", python).items()


def test_the_locks_have_hashes_and_no_address() -> None:
    for lock in ROOT.glob("*.lock"):
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text and "index-url" not in text and str(ROOT) not in text
        packages = [part for part in text.split("\n") if part[:1].isalnum()]
        assert packages and all(line.endswith("\\") for line in packages), f"{lock.name}: a package without a hash"
