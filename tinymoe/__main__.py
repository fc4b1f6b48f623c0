"""`python -m tinymoe`: see `tinymoe/cli/app.py`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from tinymoe.cli.app import main

        main()
    except KeyboardInterrupt:  # while modules were still being read
        sys.exit(130)
