"""Configuration of the documentation site: `make docs` builds it with every warning an error."""

import subprocess
import sys
from pathlib import Path

from docutils.nodes import SkipNode, inline
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref

import csoftmax

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "csoftmax"
author = "The csoftmax developers"
copyright = "the csoftmax developers"
release = version = csoftmax.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
autodoc_typehints = "none"  # the docstrings have them, in words
nitpicky = True
nitpick_ignore_regex = [("py:obj", r"numpy\..*")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
autodoc_typehints = "none"  # the docstrings say them
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "csoftmax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b4f8a", "color-brand-content": "#0b4f8a"},
    "dark_css_variables": {"color-brand-primary": "#a6c8e4", "color-brand-content": "#a6c8e4"},
}


def draw_pictures(app):
    """Draw what the pages show: the diagram, and the example's picture by running the example."""
    import pictures

    target = HERE / "generated"
    target.mkdir(exist_ok=True)
    pictures.draw_strategies(target / "strategies.svg")
    iris = HERE.parent / "examples" / "iris.py"
    subprocess.run([sys.executable, iris, "--plot", target / "iris.png"], check=True, stdout=subprocess.DEVNULL)


def list_measured_pages(app, docname, source):
    """Put the pages of figures into the table of contents: they exist once the figures have been measured."""
    if docname == "index":
        pages = [page for page in ("benchmarks", "accuracy", "reliability") if (HERE / f"{page}.md").exists()]
        source[0] = source[0].replace("{measured}", "\n".join(pages))


def number_citations(app, doctree):
    """Show a citation of a docstring by its number: numpydoc has made its name unique in the page."""
    for reference in doctree.findall(pending_xref):
        if reference.get("refdomain") == "citation":
            number = reference["reftarget"].rpartition("-")[2]
            reference.replace(reference[0], inline("", f"[{number}]"))


def visit_math(self, node):
    """Write an inline formula as MathML, which needs no script and no other server."""
    self.body.append(convert(node.astext()))
    raise SkipNode


def visit_displaymath(self, node):
    """Write a displayed formula as MathML."""
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def setup(app):
    """Hook the above into Sphinx."""
    app.connect("builder-inited", draw_pictures)
    app.connect("source-read", list_measured_pages)
    app.connect("doctree-read", number_citations)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
