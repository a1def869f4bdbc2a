"""Sphinx's configuration of the documentation; `docs/build.py` (make docs) runs it."""

from importlib.metadata import version as version_of

project = "lllms"
author = "the authors of lllms"
release = version = version_of("lllms-core")
extensions = ["myst_parser", "sphinx_copybutton"]
myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 4
nitpicky = True
highlight_language = "text"
smartquotes = False
templates_path: list[str] = []
html_theme = "furo"
html_title = "lllms"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_use_index = False
html_domain_indices = False
copybutton_exclude = ".linenos, .gp, .go"
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
