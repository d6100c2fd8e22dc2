"The documentation: its contents are whole, its commands work, and the built site has no dead link."

import re
import shlex
import subprocess
import sys

import pytest

from conftest import REPO, copy_repository, environment

sys.path[:0] = [str(REPO / "workflow"), str(REPO / "docs")]
HOWTO = ["merge", "repair", "probe", "language", "method", "study"]      # in this order they run


def text_of(name):
    return (REPO / name).read_text(encoding="utf-8")


def blocks(name):
    "(language, text) of the code blocks of a page."
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text_of(name), flags=re.M | re.S)


def commands(name):
    "Command lines of a page, as lists of words."
    shell = "\n".join(text for language, text in blocks(name) if language == "sh")
    shell = re.sub(r"(<<'END'[^\n]*)\n.*?^END$", r"\1", shell, flags=re.M | re.S)
    lines = [line.split(" | ")[-1] for line in shell.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_every_library_notebook_is_a_chapter():
    from readme import rooms
    listed = [path for paths in rooms().values() for path in paths]
    present = (REPO / "nbs/lib").rglob("*.ipynb")
    assert sorted(listed) == sorted(present), "add the notebook to ROOMS of workflow/readme.py"


def test_the_contents_name_every_page():
    from readme import rooms
    contents = text_of("docs/index.md")
    pages = [f"howto/{page.stem}" for page in (REPO / "docs/howto").glob("*.md")]
    slugs = [title.lower().replace(" ", "-") for title in rooms()]
    pages += [f"{part}/{slug}" for part in ("library", "api") for slug in slugs]
    pages += [f"runs/{folder.name}" for folder in (REPO / "nbs/runs").iterdir() if folder.is_dir()]
    assert [page for page in pages if f"\n{page}\n" not in contents] == []
    assert sorted(HOWTO) == sorted(page.stem for page in (REPO / "docs/howto").glob("*.md"))


def parse_command(words):
    "Have the command line's own parser read a command; returns what is left over for the method."
    import typer

    from mmtmerge.cli import app
    known = typer.main.get_command(app).commands
    assert words[0] in known, f"no command {words[0]}"
    command, *words = known[words[0]], *words
    if hasattr(command, "commands"):
        command, *words = command.commands[words[1]], *words[1:]
    if "--help" in words:
        return []
    with command.make_context(words[0], list(words[1:])) as context:
        return list(context.args)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/howto/{name}.md" for name in HOWTO)])
def test_commands_are_those_of_the_command_line(page):
    from mmtmerge.cli import hyper_options
    found = commands(page)
    assert found
    for words in found:
        if words[0] == "mmtmerge":
            hyper_options(parse_command([word for word in words[1:] if not word.startswith("<<")]))
        if words[0] == "make":
            assert re.search(f"(?m)^{words[1]}:", text_of("Makefile")), words


def test_a_dead_link_is_found(tmp_path):
    from links import broken
    first = "<p id=here><a href='b.html#there'>b</a> <a href='c.html'>c</a> <a href='#here'>up</a>"
    second = "<img src='https://example.org/x.png'><a href='https://example.org'>away</a><a href='.'>a folder</a>"
    (tmp_path / "a.html").write_text(first)
    (tmp_path / "b.html").write_text(second)
    assert broken(tmp_path) == [
        "a.html: b.html#there is no place of that page",
        "a.html: c.html is missing",
        "b.html: loads https://example.org/x.png",
        "b.html: . is missing",
    ]


def test_docments_become_fields():
    pytest.importorskip("sphinx")
    from docments import describe

    def halve(
        x: float,   # metres, *not* feet
        n=1,        # 1. or 2.
    ) -> float:     # 1. metres
        "Half of `x`. Raises ValueError if it is none."

    lines = halve.__doc__.splitlines()
    describe(None, "function", "halve", halve, None, lines)
    assert lines == [
        "Half of :code:`x`.", "",
        r":param x: metres, \*not\* feet", ":type x: :code:`float`",
        r":param n: \1. or 2.", ":type n: :code:`int`", r":returns: \1. metres", ":rtype: :code:`float`",
        ":raises ValueError: if it is none", "",
    ]


@pytest.mark.slow
def test_pages_work_as_printed(tmp_path):
    "Every block of the how-to pages, in order, in a clone."
    project = copy_repository(tmp_path / "project")
    here = environment(project)
    here["PATH"] = f"{REPO / '.venv/bin'}:{sys.prefix}/bin:{here['PATH']}"
    for name in HOWTO:
        for language, text in blocks(f"docs/howto/{name}.md"):
            words = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
            done = subprocess.run(words, cwd=project, env=here, capture_output=True, text=True)
            print(f"--- {name}\n{text}{done.stdout}{done.stderr}")
            assert done.returncode == 0, f"{name}.md:\n{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_site_is_built_and_every_link_leads_somewhere(tmp_path):
    pytest.importorskip("myst_nb")
    project = copy_repository(tmp_path / "project", leave_out=())
    words = [sys.executable, "workflow/docs.py"]
    done = subprocess.run(words, cwd=project, env=environment(project), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = project / "_docs"
    assert not (project / "jupyter_execute").exists()
    for name in ("index.html", "search.html", "_static/tex-svg.js", "nbs/lib/merge/ties.html", "api/merging.html"):
        assert (site / name).exists(), name
    assert "share of the entries that is kept" in (site / "api/merging.html").read_text(encoding="utf-8")
