# SPDX-License-Identifier: MIT
"""ext/lanes.h does what the scalar C it stands for does, at each width this CPU can run."""

import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
CPUINFO = pathlib.Path("/proc/cpuinfo")
FLAGS = set(CPUINFO.read_text().split()) if CPUINFO.exists() else set()


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize(
    ("march", "needs", "lanes"),
    [("x86-64", "sse2", 1), ("x86-64-v3", "avx2", 8), ("x86-64-v4", "avx512vl", 16)],
)
def test_lanes(tmp_path, march, needs, lanes):
    """Transposes, compares, extremes, rounding and binary16 equal scalar C, lane by lane."""
    if needs not in FLAGS:
        pytest.skip(f"this CPU has no {needs}")
    program = tmp_path / "lanes_check"
    flags = ["-O3", "-ffp-contract=off", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    flags += [f"-march={march}", f"-I{HERE.parents[1] / 'ext'}"]
    subprocess.run([COMPILER, *flags, "-o", program, HERE / "lanes_check.c", "-lm"], check=True)
    run = subprocess.run([program], check=False, capture_output=True, text=True)
    assert (0, f"{lanes}\n") == (run.returncode, run.stdout)
