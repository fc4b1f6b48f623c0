"""The house rules that tools can check: style, types, layers, and what imports without what."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.house
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is installed, kernels/ at tinymoe/kernels: what the checkers must see.

    An editable install maps that folder by an import hook, which no static checker follows.
    """
    tree = tmp_path_factory.mktemp("assembled")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tinymoe", tree / "tinymoe", ignore=ignore)
    shutil.copytree(ROOT / "kernels", tree / "tinymoe" / "kernels", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def check(*command: str, cwd: Path = ROOT) -> None:
    """Run a checker of this environment; its findings are the failure message."""
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_check() -> None:
    check("-m", "ruff", "check", "--no-cache", ".")


def test_ruff_format() -> None:
    check("-m", "ruff", "format", "--no-cache", "--check", ".")


def test_mypy_strict(assembled: Path) -> None:
    check("-m", "mypy", "--cache-dir", str(assembled / ".mypy"), cwd=assembled)


def test_layers(assembled: Path) -> None:
    # cwd first on the path: the linter must read the assembled tree, not the installed package
    program = (
        "import sys; sys.path.insert(0, ''); from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))"
    )
    check("-c", program, cwd=assembled)


ALLOWED = {"numpy", "safetensors", "tinymoe", "ml_dtypes"}
ORACLE_HALF = [
    *("core", "model.transformer", "formats.gemm", "formats.ggml", "checkpoint", "families"),
    *(
        "oracle.trace",
        "oracle.compare",
        "oracle.lint",
        "oracle.mutants",
        "oracle.vectors",
        "oracle.diff",
        "oracle.diagnose",
        "oracle.dumps",
        "oracle.logprobs",
    ),
]


@pytest.mark.parametrize("module", ORACLE_HALF)
def test_the_oracle_half_needs_numpy_and_safetensors_alone(module: str) -> None:
    # engine containers are pinned: any further dependency, and nobody can use the oracle there
    program = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {ALLOWED!r} and top[0] != "_":
            raise ImportError(f"blocked: {{name}}")

sys.meta_path.insert(0, Blocker())
import tinymoe.{module}
"""
    check("-c", program)


def test_no_file_outgrows_its_idea() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.rglob("*.py")
        if not {".venv", "build"} & set(path.parts)
        and (lines := len(path.read_text("utf-8").splitlines())) > 320
    }
    assert not long, f"files over about 300 lines, split them by idea: {long}"
