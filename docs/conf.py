"""The book: `make book` builds it from the notebooks as they are stored; nothing is run."""

from importlib.metadata import version as installed

project, author = "stamina-lite", "The authors of stamina-lite"
release = installed("stamina-lite")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx-mathjax-offline"]
root_doc = "docs/index"
include_patterns = [
    "README.md", "REPRODUCIBILITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "ATTRIBUTION.md", "docs/*.md",
    "notebooks/*.ipynb", "notebooks/README.md", "notebooks/solutions/*.ipynb", "results/*.md", "data_scripts/README.md",
    "stamina_lite/assets/*/README.md",
]  # fmt: skip
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.xref_missing", "mystnb.unknown_mime_type"]  # links to folders and source files
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
html_theme = "sphinx_book_theme"
html_title = "stamina-lite"
html_static_path, html_css_files = ["_static"], ["book.css"]
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": True,
    "home_page_in_toc": True,
    "navbar_persistent": [],
}


def escape(app, what, name, obj, options, lines: list[str]) -> None:
    """Bars in docstrings are absolute values, not substitutions of reStructuredText."""
    lines[:] = [line.replace("|", "\\|") for line in lines]


def setup(app) -> None:
    app.connect("autodoc-process-docstring", escape)
