"Notebooks, modules, settings and README say the same thing."

import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import REPO, copy_repository, environment, tracked


def contents(folder, *patterns):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for pattern in patterns for p in folder.glob(pattern)}


def nbdev(command, project):
    binary = Path(sys.executable).parent / command
    done = subprocess.run([binary], cwd=project, env=environment(project), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command, patterns", [("nbdev-export", ["mmtmerge/**/*.py"]), ("nbdev-clean", ["nbs/**/*.ipynb"])]
)
def test_nbdev_changes_nothing(command, patterns, tmp_path):
    project = copy_repository(tmp_path / "project")
    before = contents(project, *patterns)
    nbdev(command, project)
    after = contents(project, *patterns)
    assert {name for name in before | after if before.get(name) != after.get(name)} == set(), f"run {command}"


def project_table():
    return tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


def version():
    text = (REPO / "mmtmerge" / "__init__.py").read_text()
    return re.search(r'(?m)^__version__ = "(.*)"$', text)[1]


def test_settings_and_pyproject_agree():
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(REPO / "settings.ini", encoding="utf-8")
    project = project_table()
    assert settings["project"]["name"] == project["name"]
    assert settings["project"]["version"] == version()
    assert project.get("version", version()) == version()


def test_the_citation_has_this_version():
    assert re.search(r"(?m)^version: (\S+)$", (REPO / "CITATION.cff").read_text())[1] == version()
    assert f"## {version()}" in (REPO / "CHANGELOG.md").read_text()


def test_constraints_pin_every_dependency():
    def norm(name):
        return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()

    project = project_table()
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    pinned = {norm(line) for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {norm(d) for d in wanted} <= pinned


def test_readme_in_step():
    words = [sys.executable, "workflow/readme.py"]
    made = subprocess.run(words, cwd=REPO, check=True, capture_output=True, text=True, env=environment(REPO)).stdout
    assert (REPO / "README.md").read_text(encoding="utf-8") == made, "run make readme"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    "Every relative link and picture of the front pages is a file of the repository."
    text = (REPO / page).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert not [link for link in links if not (REPO / link).exists()]


def test_the_readme_is_short():
    prose = re.sub(r"```.*?```|\]\([^)]*\)", "", (REPO / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert len(prose.split()) <= 900


def test_python_of_the_readme_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), flags=re.S)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=REPO, env=environment(REPO), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_machine_paths():
    private = [f"{path}/".encode() for path in {str(REPO), str(Path.home()), sys.prefix}]
    found = [name for name in tracked() if any(path in (REPO / name).read_bytes() for path in private)]
    assert not found
