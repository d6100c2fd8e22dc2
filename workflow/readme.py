"Print README.md as made from nbs/index.ipynb; links that leave nbs/ are made relative to the root."
import re
from pathlib import Path

from nbconvert import MarkdownExporter

index = Path(__file__).resolve().parent.parent / "nbs" / "index.ipynb"
exporter = MarkdownExporter()
exporter.exclude_input = True   # a reader of the README wants the text and the results, not the cells that make them
text, _ = exporter.from_filename(str(index))
print("<!-- generated from nbs/index.ipynb by `make readme`: edit that -->\n" + re.sub(r'(\]\(|src="|href=")\.\./', r"\1", text).strip())
