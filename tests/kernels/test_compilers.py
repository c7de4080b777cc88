"""Other compilers and another architecture: the kernels build without a warning and make the same
bytes and values.
"""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXT = HERE.parents[1] / "ext"
FLAGS = [
    *("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-lto"),
    *("-Wall", "-Wextra", "-Werror"),
]
X86 = {"avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}
TIERED = [
    EXT / "table.c",
    EXT / "driver.c",
    EXT / "fp8.c",
    EXT / "measure.c",
    EXT / "unpack.c",
    *sorted((EXT / "kernels").glob("*.c")),
]
NATIVE = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)


def digests(compiler: str, folder: Path, tiers: dict[str, list[str]], run: list[str]) -> set[str]:
    """Build tests/kernels/digest.c with the kernels and run it; its lines without the tier."""
    several = ["-DGGUFMIX_X86_TIERS"] if len(tiers) > 1 else []
    jobs = [([*several], source, "plain") for source in (HERE / "digest.c", EXT / "dispatch.c")]
    jobs += [([f"-DISA={tier}", *flags], s, tier) for tier, flags in tiers.items() for s in TIERED]

    def built(job: tuple[list[str], Path, str]) -> str:
        flags, source, tier = job
        target = folder / f"{source.stem}.{tier}.o"
        command = [compiler, *FLAGS, *flags, f"-I{EXT}", "-c", source, "-o", target]
        subprocess.run(command, check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(built, jobs))
    program = folder / "digest"
    static = ["-static"] if run else []
    subprocess.run([compiler, *static, *objects, "-lm", "-o", program], check=True)
    done = subprocess.run([*run, program], check=True, capture_output=True, text=True)
    return {line.split(" ", 1)[1] for line in done.stdout.splitlines()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The lines of the base tier from this machine's compiler."""
    if NATIVE is None:
        pytest.skip("no C compiler")
    return digests(NATIVE, tmp_path_factory.mktemp("native"), {"base": []}, [])


def test_clang(tmp_path, expected):
    """Clang builds every tier; each makes the bytes of the other compiler."""
    if shutil.which("clang") is None:
        pytest.skip("no clang")
    x86 = X86 if platform.machine() == "x86_64" else {}
    assert digests("clang", tmp_path, {"base": [], **x86}, []) == expected


def test_aarch64(tmp_path, expected):
    """Arm, where fused multiply-add is always at hand, makes the same bytes."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no aarch64-linux-gnu-gcc, or no qemu-aarch64")
    assert digests(compiler, tmp_path, {"base": []}, [emulator]) == expected
