"""Build kernels.c with libFuzzer and sanitizers: every kernel at every tier, as setup.py does.

python tests/fuzz/build_kernels.py OUT [CLANG]
"""

# SPDX-License-Identifier: MIT

import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKS = "address,undefined,float-cast-overflow"
TIERS = {"base": ()}
if platform.machine() in ("x86_64", "AMD64"):
    TIERS |= {"avx2": ("-march=x86-64-v3",), "avx512": ("-march=x86-64-v4",)}


def build(out: Path, clang: str = "clang") -> None:
    """Compile and link. Raises CalledProcessError with what the compiler said."""
    flags = [clang, "-std=gnu11", "-O1", "-g1", "-ffp-contract=off", "-Wall", "-Wextra", "-Iext"]
    flags += [f"-fsanitize=fuzzer-no-link,{CHECKS}", "-fno-sanitize-recover=all"]
    flags += ["-DGGUFMIX_X86_TIERS"] if len(TIERS) > 1 else []
    tiered = [p.relative_to(ROOT) for p in sorted((ROOT / "ext" / "kernels").glob("*.c"))]
    tiered += [Path("ext", name) for name in _tiered()]
    jobs = [(Path("ext/dispatch.c"), "once", ()), (Path("tests/fuzz/kernels.c"), "once", ())]
    jobs += [(p, tier, (f"-DISA={tier}", *more)) for tier, more in TIERS.items() for p in tiered]
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor() as pool:

        def compiled(job: tuple[Path, str, tuple[str, ...]]) -> Path:
            source, tier, more = job
            target = Path(place, f"{tier}-{source.stem}.o")
            _run([*flags, *more, "-c", str(source), "-o", str(target)])
            return target

        objects = list(pool.map(compiled, jobs))
        _run([clang, f"-fsanitize=fuzzer,{CHECKS}", *map(str, objects), "-lm", "-o", str(out)])


def _tiered() -> list[str]:
    """Sources beside the kernels that are compiled once per tier: those that use FN or ISA."""
    named = (Path(p) for p in sorted(glob(str(ROOT / "ext" / "*.c"))))
    return [p.name for p in named if p.name != "dispatch.c"]


def _run(command: list[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve(), *sys.argv[2:3])
