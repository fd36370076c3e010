"""The site of the guides: `make docs`."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

project = "airflow-mlops"
release = metadata.version("airflow-mlops")
extensions = ["myst_parser", "sphinx.ext.autodoc", "reference"]
exclude_patterns = ["examples"]
html_theme = "furo"
html_title = f"airflow-mlops {release}"
html_copy_source = False
# Links such as data.md#a-home-on-object-storage, as they work where the files are read without a site.
myst_heading_anchors = 4
# Docstrings name types of Airflow and of the standard library, whose sites are not read.
nitpicky = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_use_legacy_class_based = False
suppress_warnings = ["myst.xref_missing_file"]
