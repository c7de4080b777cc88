"""Every fuzzing target for some seconds: the readers with atheris, the kernels with libFuzzer.

python tests/fuzz/all.py SECONDS

The kernels need a clang that has libFuzzer; without one they are left out, which is said.
"""

# SPDX-License-Identifier: MIT

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_kernels import build
from targets import TARGETS

HERE = Path(__file__).parent


def fuzzed(name: str, command: list[str], seconds: str) -> bool:
    """Run one; what it found lies where it was started."""
    limits = [f"-max_total_time={seconds}", f"-artifact_prefix={name}-"]
    done = subprocess.run([*command, *limits], capture_output=True, text=True, check=False)
    good = done.returncode == 0 and "Done" in done.stderr
    print(f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'silent'}")
    if not good:
        print(done.stdout[-2000:] + done.stderr[-6000:])
    return good


def kernels(seconds: str) -> bool:
    """Build and run the kernels' target, where it can be built."""
    clang = shutil.which(os.environ.get("CLANG", "clang"))
    if clang is None:
        print("kernels: left out, there is no clang here")
        return True
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "kernels"
        try:
            build(program, clang)
        except subprocess.CalledProcessError as error:
            if "fuzzer" not in error.stderr:
                raise
            print("kernels: left out, this clang has no libFuzzer")
            return True
        return fuzzed("kernels", [str(program), "-max_len=4096"], seconds)


def main() -> None:
    """Run them all, as many at once as there are cores."""
    seconds = sys.argv[1]
    run = [sys.executable, str(HERE / "run.py")]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        last = pool.submit(kernels, seconds)
        made = list(pool.map(lambda name: fuzzed(name, [*run, name], seconds), TARGETS))
    sys.exit(0 if all([*made, last.result()]) else 1)


if __name__ == "__main__":
    main()
