"Settings of Sphinx. `make docs` gathers the sources first: see workflow/docs.py."

import sys
from pathlib import Path

from mmtmerge import __version__

sys.path.insert(0, str(Path(__file__).resolve().parent))     # docments.py, beside this file

project = "mmtmerge"
author = copyright = "the mmtmerge developers"
release = version = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "docments"]

# Notebooks are shown as they are stored: nothing runs.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Parameters and their meaning come from the docments; signatures stay short.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"mmtmerge {release}"
html_show_sourcelink = False
html_copy_source = False
mathjax_path = "tex-svg.js"     # workflow/docs.py puts it there: formulas need no network
