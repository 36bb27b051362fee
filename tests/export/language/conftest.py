"""ModelOpt's interpreter, and one that stands in for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from saymask.calibration.modelopt import ENVIRONMENT
from saymask.export.language.tensorrt_llm import COMMANDS


@pytest.fixture(scope="module")
def modelopt_python(pytestconfig) -> Path:
    """Interpreter of ModelOpt's environment, with transformers."""
    given = pytestconfig.getoption("--modelopt-python", default=None)
    python = given or pytestconfig.rootpath / ENVIRONMENT / "bin" / "python"
    find = (
        "import importlib.util as u; assert u.find_spec('modelopt') and u.find_spec('transformers')"
    )
    if (
        not python.is_file()
        or subprocess.run([python, "-I", "-c", find], capture_output=True).returncode
    ):
        pytest.skip(
            f"no ModelOpt with transformers at {python}; make it with: {'; '.join(COMMANDS)}"
        )
    return python


@pytest.fixture
def fp8_python(tmp_path: Path) -> Path:
    """An executable that writes FP8 whatever it is asked for, see `fp8_stand_in`."""
    job = Path(__file__).with_name("fp8_stand_in.py")
    path = tmp_path / "python"
    # Asked with -c for its modules, it has them all.
    path.write_text(f'#!/bin/sh\n[ "$2" = -c ] && exit 0\nexec "{sys.executable}" "{job}" "$@"\n')
    path.chmod(0o755)
    return path
