"""What holds for all tests: commands compute with NumPy unless a test says otherwise.

`auto` would start to compile in the background, and change backends in the middle of a run.
"""

from __future__ import annotations

import os

os.environ["TINYMOE_BACKEND"] = "numpy"
