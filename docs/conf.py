"""Sphinx settings; the test command builds the pages with warnings fatal."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # autodoc imports TensorFlow

import kparallel

project = "kparallel"
author = "The kparallel authors"
copyright = f"2026, {author}"
release = version = kparallel.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
extensions += ["sphinx.ext.mathjax"]
exclude_patterns = ["_build"]

default_role = "code"  # docstrings write `name` for code
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autosummary_generate = False
autodoc_typehints = "none"  # the argument texts say shape, unit and default
autodoc_member_order = "bysource"
napoleon_use_rtype = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "kparallel"
html_static_path = ["_static"]


def returns_without_type(app, what, name, obj, options, lines):
    """Rewrite a `Returns:` section as a field: napoleon would take what stands before a colon for a type."""
    if "Returns:" in lines:
        start = lines.index("Returns:")
        end = next((i for i in range(start + 1, len(lines)) if lines[i] and not lines[i].startswith(" ")), len(lines))
        text = " ".join(line.strip() for line in lines[start + 1 : end] if line.strip())
        lines[start:end] = [f":returns: {text}", ""]


def setup(app):
    app.connect("autodoc-process-docstring", returns_without_type, priority=100)  # napoleon comes at 500
