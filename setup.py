"""Build of the compiled part: every kernel once per CPU tier, all in one extension.

The rest of the project is in pyproject.toml.

GGUFMIX_SANITIZE=1  address, undefined-behaviour and float-cast sanitizers (preload libasan and
                    libubsan to run it)
"""

# SPDX-License-Identifier: MIT

import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

# Python adds -fwrapv: an int index that might wrap keeps a loop scalar, so long loops count in
# int64_t.
FLAGS = [
    *(
        "-std=gnu11",
        "-O3",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fvisibility=hidden",
        "-fno-lto",
    ),
    *("-Wall", "-Wextra", "-g0"),
]
SANITIZE = [
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-omit-frame-pointer",
    "-g1",
    "-O1",
]
X86_TIERS = {
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
TIERED = [
    *("ext/table.c", "ext/driver.c", "ext/fp8.c", "ext/measure.c", "ext/unpack.c"),
    *sorted(glob("ext/kernels/*.c")),
]
HEADERS = ["ext/formats.def", *sorted(glob("ext/*.h"))]

sanitize = os.environ.get("GGUFMIX_SANITIZE") == "1"
abi3 = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildTiers(build_ext):
    """Compile what is older than its sources, in parallel, and link."""

    def build_extension(self, ext):
        x86 = X86_TIERS if self.plat_name.endswith(("x86_64", "amd64")) else {}
        root = Path(self.build_temp, "sanitized" if sanitize else "plain")
        macros = [*ext.define_macros, *([("GGUFMIX_X86_TIERS", None)] if x86 else [])]
        jobs = [(source, root, macros, []) for source in (*ext.sources, "ext/dispatch.c")]
        for tier, flags in {"base": [], **x86}.items():
            jobs += [(source, root / tier, [("ISA", tier)], flags) for source in TIERED]
        with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(lambda job: self.compile_one(*job), jobs))
        ext.sources, self.force = (
            [],
            True,
        )  # linking is quick, and the only way to tell a sanitized build from a plain one
        super().build_extension(ext)

    def compile_one(self, source, folder, macros, flags):
        """Compile one source unless its object is newer than it and every header."""
        [target] = self.compiler.object_filenames([source], output_dir=str(folder))
        if newer_group([source, *HEADERS, "setup.py"], target):
            flags = [*FLAGS, *flags, *(SANITIZE if sanitize else [])]
            self.compiler.compile(
                [source],
                output_dir=str(folder),
                macros=macros,
                include_dirs=["ext", sysconfig.get_path("include")],
                extra_postargs=flags,
            )
        return target


core = Extension(
    "ggufmix._core",
    ["ext/_core.pyx"],
    depends=[*TIERED, *HEADERS, "ext/dispatch.c", "ext/_core.pyx"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if abi3 else [],
    py_limited_api=abi3,
    extra_link_args=SANITIZE if sanitize else [],
)
setup(
    ext_modules=cythonize([core], build_dir="build/cython", include_path=["ext"]),
    cmdclass={"build_ext": BuildTiers},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if abi3 else {},
)
