"""How the tutorials become a web site. The one command is in README.rst."""

import os
import warnings

os.environ["MPLBACKEND"] = "Agg"  # pictures go to files, also where there is a screen
warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")  # `plt.show` in a page

project = "tinymoe"
extensions = ["sphinx_gallery.gen_gallery"]
exclude_patterns = ["html", "README.rst", "bugs"]
# A second build finds the first one's copies in gallery/ and takes them for pages of one name.
suppress_warnings = ["sphinx_gallery.duplicate_filename"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1000px", "font_size": "16px", "code_font_size": "0.85em"}
html_copy_source = False
highlight_language = "python3"

sphinx_gallery_conf = {
    "examples_dirs": ".",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "ignore_pattern": r"conf\.py",
    "copyfile_regex": "^$",  # nothing; by default index.rst would be taken for the gallery's own
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,  # a page whose check fails is not published
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "run_stale_examples": True,  # an unchanged page still shows what a changed package does
    "min_reported_time": 60,  # seconds: pages take less, and the reader's machine is another
}
