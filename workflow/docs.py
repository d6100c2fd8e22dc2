"Build the documentation in _docs: gather its pages below build/docs, run Sphinx on them, check every link."

import json
import os
import re
import shutil
import sys
from importlib import resources
from pathlib import Path

from readme import ROOT, rooms
from sphinx.cmd.build import main as sphinx

sys.path.insert(0, str(ROOT / "docs"))
from links import Page, broken     # noqa: E402

SITE, WORK = ROOT / "_docs", ROOT / "build/docs"
SOURCE, STATIC, HTML = WORK / "source", WORK / "static", WORK / "html"     # myst-nb leaves a folder beside HTML
PROFILE = ROOT / "outputs/laptop"
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
FRONT = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DATA = ["corpus", "miniature", "paper"]     # what the package holds, each with a README


# ---- what the site shows ----

def studies():
    "Folders of run notebooks: those of one study each."
    return sorted(p for p in (ROOT / "nbs/runs").iterdir() if p.is_dir())


def pages():
    "Files of the repository that become pages under their own paths."
    chapters = [path for paths in rooms().values() for path in paths]
    runs = [path for study in studies() for path in sorted(study.glob("*.ipynb"))]
    reports = sorted((PROFILE / "report").glob("*.ipynb"))
    tables = sorted((PROFILE / "tables").glob("*.md"))
    front = [ROOT / name for name in FRONT] + [ROOT / f"mmtmerge/data/{name}/README.md" for name in DATA]
    return [*chapters, *runs, *reports, *tables, ROOT / "nbs/paper_scale.ipynb", *front]


def module_of(path):
    "nbs/lib/merge/ties.ipynb -> mmtmerge.merge.ties"
    return ".".join(["mmtmerge", *path.relative_to(ROOT / "nbs/lib").with_suffix("").parts])


def slug(title):
    return title.lower().replace(" ", "-")


# ---- how a page is rewritten ----

def shown_cells(cells):
    "Cells without directives of nbdev, and without those that it hides."
    kept = []
    for cell in cells:
        source = "".join(cell["source"])
        text = re.sub(r"(?m)^#\|.*\n?", "", source) if cell["cell_type"] == "code" else source
        if text.strip() and not re.search(r"(?m)^#\| ?hide", source):
            kept.append(cell | dict(source=text.rstrip("\n")))
    return kept


class Sources:
    "The pages that Sphinx reads; what a page links to comes with it."

    def __init__(self):
        self.written = set()
        self.pages = set(pages())

    def write(self, name, content):
        "One file, left alone where it says this already: Sphinx reads again what is newer."
        path = SOURCE / name
        self.written.add(path)
        data = content.encode() if isinstance(content, str) else content
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def folder_page(self, folder):
        "A page that lists the files of a folder, for links that lead to the folder."
        name = folder.relative_to(ROOT).as_posix()
        files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix != ".html"]
        lines = [self.link(folder / "index.md", p.name, p.name) for p in files]
        self.write(f"{name}/index.md", "\n".join([f"---\norphan: true\n---\n# {name}\n", *[f"- {x}" for x in lines]]))

    def link(self, page, text, target, fragment=""):
        "A link of a page, to where its target stands in the site."
        path = Path(os.path.normpath(page.parent / target))
        if path.suffix == ".html":
            return f'<a href="{target}">{text}</a>'
        if path == ROOT / "docs/howto":     # of the README: pages that the site has at its top
            return f"[{text}](howto/merge.md)"
        if path.parent == ROOT / "docs/howto":
            return f"[{text}](howto/{path.name}{fragment})"
        if path.is_dir():
            if SOURCE / path.relative_to(ROOT) / "index.md" not in self.written:
                self.folder_page(path)
            target = f"{target.rstrip('/')}/index.md"
        elif path.is_file() and path not in self.pages:
            self.write(path.relative_to(ROOT), path.read_bytes())
        return f"[{text}]({target}{fragment})"

    def prose(self, page, text):
        "Markdown with its links rewritten, and the pictures that it shows copied."
        for target in re.findall(r"!\[[^\]]*\]\(([^)\s:]+)\)", text):
            picture = Path(os.path.normpath(page.parent / target))
            self.write(picture.relative_to(ROOT), picture.read_bytes())
        return LINK.sub(lambda m: self.link(page, m[1], m[2], m[3] or ""), text)

    def notebook(self, page):
        notebook = json.loads(page.read_text(encoding="utf-8"))
        cells = shown_cells(notebook["cells"])
        for cell in cells:
            if cell["cell_type"] == "markdown":
                cell["source"] = self.prose(page, cell["source"])
        return json.dumps(notebook | dict(cells=cells), ensure_ascii=False)

    def page(self, page):
        "One page of the repository."
        if page.suffix == ".ipynb":
            text = self.notebook(page)
        else:
            text = self.prose(page, page.read_text(encoding="utf-8"))
            text = re.sub(r"\A\*\*(.+)\*\*$", r"# \1", text, flags=re.MULTILINE)     # a table's caption is its title
        self.write(page.relative_to(ROOT), text)

    def contents(self, name, title, entries, options=()):
        "A page that is a list of pages."
        lines = [f"# {title}\n", "```{toctree}", *options, "", *entries, "```\n"]
        self.write(name, "\n".join(lines))

    def sweep(self):
        "Remove what is no longer written; then the site is built anew."
        stale = [path for path in SOURCE.rglob("*") if path.is_file() and path not in self.written]
        for path in stale:
            path.unlink()
        if stale:
            shutil.rmtree(HTML, ignore_errors=True)


# ---- pages that are made ----

def command_page():
    "Every command with its help, as the command line prints it."
    from typer.testing import CliRunner

    from mmtmerge.cli import app
    names = sorted(info.name or info.callback.__name__.replace("_", "-") for info in app.registered_commands)
    parts = ["# Commands\n"]
    for name in names:
        name = dict(list_names="list").get(name, name)
        printed = CliRunner().invoke(app, [name, "--help"], prog_name="mmtmerge").output
        parts.append(f"## mmtmerge {name}\n\n```text\n{printed.strip()}\n```\n")
    return "\n".join(parts)


def api_page(title, paths):
    "The modules of a room, as autodoc shows them."
    modules = [module_of(path) for path in paths]
    parts = [f"{title}: API\n{'=' * (len(title) + 5)}\n"]
    for name in modules:
        parts.append(f"{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n")
    return "\n".join(parts)


def gather():
    "Write every page that Sphinx reads."
    sources = Sources()
    for page in sources.pages:
        sources.page(page)
    for name in ("figures", "tables"):     # the report links to these folders
        sources.folder_page(PROFILE / name)
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8").replace("](../../", "](../")     # in the site one level higher
        sources.write(page.relative_to(ROOT / "docs"), text)
    for title, paths in rooms().items():
        chapters = [f"/{path.relative_to(ROOT).with_suffix('')}" for path in paths]
        sources.contents(f"library/{slug(title)}.md", title, chapters)
        sources.write(f"api/{slug(title)}.rst", api_page(title, paths))
    for study in studies():
        title, notebooks = f"Runs of the study {study.name}", [f"/nbs/runs/{study.name}/*"]
        sources.contents(f"runs/{study.name}.md", title, notebooks, [":glob:"])
    sources.contents("reports.md", "Executed reports", ["/outputs/*/report/*"], [":glob:"])
    sources.contents("tables.md", "Tables", ["/outputs/*/tables/*"], [":glob:"])
    sources.contents("data.md", "Data", [f"/mmtmerge/data/{name}/README" for name in DATA])
    sources.write("commands.md", command_page())
    words = (ROOT / "mmtmerge/data/report/words.html").read_text(encoding="utf-8")     # those of the report
    sources.write("words.md", f"# Words\n\n```{{raw}} html\n{words}```\n")
    sources.sweep()


# ---- build ----

def bundle_mathjax():
    "MathJax in one file, which draws formulas as SVG and needs no fonts."
    STATIC.mkdir(parents=True, exist_ok=True)
    packaged = resources.files("sphinx-mathjax-offline") / "static/mathjax/tex-svg.js"
    (STATIC / "tex-svg.js").write_bytes(packaged.read_bytes())


def add_report():
    "The report's own page, with what it links to; executed notebooks are pages of the site already."
    report = PROFILE / "index.html"
    shutil.copy2(report, SITE / report.relative_to(ROOT))
    for target, _ in Page(report).links:
        path, copy = PROFILE / target, SITE / PROFILE.relative_to(ROOT) / target
        if path.is_file() and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def build():
    "The site; returns an exit status."
    gather()
    bundle_mathjax()
    options = ["-W", "--keep-going", "-q", "-j", "auto", "-b", "html", "-d", WORK / "doctrees", "-c", ROOT / "docs"]
    status = sphinx([str(word) for word in [*options, "-D", f"html_static_path={STATIC}", SOURCE, HTML]])
    if status:
        return status
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(HTML, SITE)
    add_report()
    found = broken(SITE)
    print("\n".join(found) or f"written: {SITE.relative_to(ROOT)}/index.html, every link leads somewhere")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(build())
