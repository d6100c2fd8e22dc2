"Notebooks, modules, settings and README say the same thing."
import ast, configparser, subprocess, sys, tomllib
from pathlib import Path

import pytest

from conftest import REPO, copy_repository, environment, tracked


def contents(folder, *patterns):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for pattern in patterns for p in folder.glob(pattern)}


def nbdev(command, project):
    binary = Path(sys.executable).parent / command
    done = subprocess.run([binary], cwd=project, env=environment(project), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command, patterns", [("nbdev-export", ["mmtmerge/*.py"]), ("nbdev-clean", ["nbs/*.ipynb", "nbs/*/*.ipynb"])])
def test_nbdev_changes_nothing(command, patterns, tmp_path):
    project = copy_repository(tmp_path / "project")
    before = contents(project, *patterns)
    nbdev(command, project)
    after = contents(project, *patterns)
    assert {name for name in before | after if before.get(name) != after.get(name)} == set(), f"run {command}"


def test_settings_and_pyproject_agree():
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(REPO / "settings.ini", encoding="utf-8")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    version = ast.literal_eval((REPO / "mmtmerge" / "__init__.py").read_text().partition("=")[2].strip().splitlines()[0])
    assert settings["project"]["name"] == project["name"]
    assert settings["project"]["version"] == version
    assert project.get("version", version) == version


def test_constraints_pin_every_dependency():
    import re
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    norm = lambda name: re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()
    pinned = {norm(line) for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {norm(d) for d in wanted} <= pinned


def test_readme_in_step():
    made = subprocess.run([sys.executable, "workflow/readme.py"], cwd=REPO, check=True, capture_output=True, text=True).stdout
    assert (REPO / "README.md").read_text(encoding="utf-8") == made, "run make readme"


def test_no_machine_paths():
    private = [f"{path}/".encode() for path in {str(REPO), str(Path.home()), sys.prefix}]
    found = [name for name in tracked() if any(path in (REPO / name).read_bytes() for path in private)]
    assert not found
