"""Builds the compiled parts: a CPU library where there is a C++ compiler, a CUDA library where there is nvcc and torch
has CUDA.

Both use torch's stable ABI alone (no pybind, no ATen headers), so that one binary serves every Python and
every torch from 2.11 on. Neither is needed: without them the package runs on its PyTorch reference and says
so.

  MCLNF_NO_EXT=1         build nothing
  MCLNF_CUDA=1           build the CUDA library for a torch without CUDA too, for a machine with one: it takes minutes
  MCLNF_NO_CUDA=1        build the CPU library only
  MCLNF_DEBUG=1          -O1 -g and assertions
  MCLNF_SANITIZE=1       address and undefined-behaviour sanitizers in the CPU library
  MCLNF_EMULATE=1        the CPU library's AVX-512 kernels, those over bf16 pairs included, compiled for AVX2 with the
                         missing instructions emulated: for tests of these kernels (MCLNF_FAST_ISA=avx512) on
                         processors without AVX-512; slow
  CXX                    the C++ compiler; GCC and clang are tested, on Linux
  TORCH_CUDA_ARCH_LIST   architectures of the CUDA library, such as "8.0 9.0"
  MAX_JOBS               compile jobs at a time
"""

from __future__ import annotations

import concurrent.futures
import glob
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.errors import BaseError

TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11, the oldest that we support


def flag(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


def say(text: str) -> None:
    print(f"mclnf_fast: {text}", flush=True)


# The kernels are written in vectors of GCC and clang, which cl does not have: on Windows clang-cl compiles them. The
# rules for Windows and macOS are NOT TESTED there.
WINDOWS_FLAGS = [
    *("/nologo", "/std:c++17", "/MD", "/EHsc", "/O2", "/DNDEBUG"),
    *("/clang:-ffp-contract=off", "/clang:-fno-math-errno", "/clang:-O3", TARGET),
]
UNTESTED = {"win32": "Windows", "darwin": "macOS"}


def cpu_arguments() -> tuple[list[str], list[str]]:
    # Contraction is off so that the portable arithmetic gives the same bits on every machine; kernels that
    # want a fused multiply-add ask for one by name.
    compile_args = ["-std=c++17", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wno-psabi", TARGET]
    compile_args += ["-fno-math-errno"]  # a square root that sets errno can't be vectorised
    compile_args += ["-O1", "-g", "-UNDEBUG"] if flag("MCLNF_DEBUG") else ["-O3", "-DNDEBUG", "-g0"]
    if flag("MCLNF_EMULATE"):  # vectors twice the registers' size take the compiler minutes at -O3
        compile_args += ["-DMCLNF_EMULATE", "-O1"]
    if sys.platform == "linux":
        compile_args += ["-include", os.path.abspath("csrc/old_glibc.h")]
    link_args: list[str] = []
    if flag("MCLNF_SANITIZE"):
        sanitize = [
            "-fsanitize=address,undefined",
            "-fno-omit-frame-pointer",
            "-fno-sanitize-recover=undefined",
        ]
        compile_args += [*sanitize, "-g"]
        link_args += sanitize
    return compile_args, link_args


# Contraction is off, as on the CPU. `tests/ops/test_cuda_compile.py` compiles with these flags too.
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "--fmad=false", TARGET, "-DUSE_CUDA"]
# Compiled by the driver when they are first used: on two cores their machine code for three architectures would make
# a build minutes longer, for formats that save nothing beside tf32.
JIT_SOURCES = ("bank_fit_bf16.cu", "bank_fit_fp16.cu")


def find_nvcc() -> str | None:
    at_home = os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc")
    return shutil.which("nvcc") or (at_home if os.path.exists(at_home) else None)


def cuda_extension(cuda_of_torch: str | None, name: str = "mclnf_fast._C_cuda") -> list:
    """The CUDA library as a list of one extension, or of none, with a line that says why."""
    sources, nvcc = sorted(glob.glob("csrc/cuda/*.cu")), find_nvcc()
    if flag("MCLNF_NO_CUDA"):
        why_not = "MCLNF_NO_CUDA is set"
    elif cuda_of_torch is None and not flag("MCLNF_CUDA"):  # it could not be loaded: minutes for nothing
        why_not = "torch was built without CUDA (MCLNF_CUDA=1 builds the library all the same)"
    elif os.path.exists("PKG-INFO") and not flag("MCLNF_CUDA"):  # whoever installs it did not ask for minutes of nvcc
        why_not = "a source archive builds it if MCLNF_CUDA=1 asks for it"
    elif not sources or nvcc is None:
        why_not = "nvcc was not found" if sources else "no sources"
    else:
        from torch.utils import cpp_extension

        include = [os.path.abspath("csrc"), *cpp_extension.include_paths()]
        extension = Extension(name, sources, include_dirs=include, py_limited_api=True)
        extension.mclnf_nvcc = nvcc
        return [extension]
    say(f"CUDA library not built: {why_not}")
    return []


def nvcc_targets(nvcc: str) -> list[str]:
    """The architectures of TORCH_CUDA_ARCH_LIST that this nvcc knows, such as "90"."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "8.0 9.0 10.0").replace(";", " ").split()
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=False).stdout
    numbers = [name.replace("+PTX", "").replace(".", "") for name in listed]
    return [number for number in numbers if f"compute_{number.rstrip('af')}" in known]


def target_flags(source: str, targets: list[str]) -> list[str]:
    """The flags that name the architectures of a source."""
    if not targets:
        return []
    if source.endswith(JIT_SOURCES):
        oldest = targets[0].rstrip("af")  # whose intermediate code every later device takes
        return ["-gencode", f"arch=compute_{oldest},code=compute_{oldest}"]
    # For all architectures before 10.0 the front end, which takes as long as the assembler, runs once: what it
    # puts out for 9.0 is what it puts out for 8.0, but for that name. For later ones nvcc has another.
    shared = sorted((t for t in targets if t.isdigit() and int(t) < 100), key=int)
    front = {t: shared[0] if t in shared else t for t in targets}
    flags = [flag for t in targets for flag in ("-gencode", f"arch=compute_{front[t]},code=sm_{t}")]
    # Intermediate code of the newest one, so that later devices run as well.
    return [*flags, "-gencode", f"arch=compute_{targets[-1]},code=compute_{targets[-1]}"]


def builds() -> bool:
    """Whether this run compiles; asked for metadata alone, setup.py does without torch, which is slow to import."""
    return any(a.startswith(("build", "bdist", "editable", "install", "develop")) for a in sys.argv[1:])


class Wheel(bdist_wheel):
    """Tagged for the platform alone: the libraries have no Python in them."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def extensions() -> tuple[list, dict]:
    if flag("MCLNF_NO_EXT"):
        say("nothing compiled: MCLNF_NO_EXT is set; the PyTorch reference serves every op")
        return [], {}
    sources = ["csrc/schema.cpp", *sorted(glob.glob("csrc/cpu/*.cpp"))]
    # What a source archive needs beside them.
    depends = sorted([*glob.glob("csrc/**/*.h", recursive=True), *glob.glob("csrc/cuda/*.cu")])
    if not builds():
        return [Extension("mclnf_fast._C_cpu", sources, depends=depends)], {}
    if sys.platform in UNTESTED:
        say(f"the build rules for {UNTESTED[sys.platform]} have not been tested; a report of what happens is welcome")
    if sys.platform == "darwin":  # torch is built for one architecture, some Pythons are for two
        os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")
    compiler = "clang-cl" if sys.platform == "win32" else os.environ.get("CXX", "c++").split()[-1]
    if shutil.which(compiler) is None and (sys.platform == "win32" or shutil.which("g++") is None):
        say(f"nothing compiled: no C++ compiler ({compiler}) found; the PyTorch reference serves every op")
        return [], {}
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        say("nothing compiled: torch is not importable at build time; the PyTorch reference serves every op")
        return [], {}
    compile_args, link_args = cpu_arguments()
    cpu = cpp_extension.CppExtension(
        "mclnf_fast._C_cpu",
        sources,
        depends=depends,
        include_dirs=[os.path.abspath("csrc")],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        py_limited_api=True,
    )
    return [cpu, *cuda_extension(torch.version.cuda)], {"build_ext": build_command(), "bdist_wheel": Wheel}


def build_command() -> type:
    """The command `build_ext`; needs torch."""
    from torch.utils import cpp_extension

    class Build(cpp_extension.BuildExtension):
        """Ninja for the CPU library; nvcc called directly, since torch's CUDA build wants a CUDA build of
        torch."""

        def build_extensions(self) -> None:
            for name in ("mclnf_fast._C_cpu", "mclnf_fast._C_cuda"):  # what an earlier build left
                if os.path.exists(path := self.get_ext_fullpath(name)):
                    os.remove(path)
            cuda = [e for e in self.extensions if hasattr(e, "mclnf_nvcc")]
            self.extensions = [e for e in self.extensions if e not in cuda]
            try:
                if sys.platform == "win32":
                    for extension in self.extensions:
                        self.build_by_clang_cl(extension)
                else:
                    super().build_extensions()
            except (RuntimeError, OSError, subprocess.CalledProcessError, BaseError) as error:
                # A compiler that fails leaves a working pure-Python install.
                say(f"nothing compiled: the C++ compiler failed ({error}); the PyTorch reference serves every op")
                self.extensions = []
                return
            self.extensions += cuda
            for extension in cuda:
                try:
                    self.build_cuda(extension)
                except (subprocess.CalledProcessError, OSError) as error:
                    if extension.name != "mclnf_fast._C_cuda":  # the wheel of csrc/cuda/wheel, empty without it
                        raise
                    say(f"CUDA library not built: nvcc failed ({error}); everything else works without it")
                    self.extensions.remove(extension)

        def objects(self, extension, command: list[str], words: Callable[[str, str], list[str]]) -> list[str]:
            """Compile each source by `command` and its own words, which name the object's file; return these files."""
            include = [f"-I{path}" for path in extension.include_dirs]
            os.makedirs(self.build_temp, exist_ok=True)

            def compiled(source: str) -> str:
                target = os.path.join(self.build_temp, os.path.basename(source) + ".o")
                subprocess.run([*command, *include, source, *words(source, target)], check=True)
                return target

            jobs = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))
            with concurrent.futures.ThreadPoolExecutor(max(jobs, 1)) as pool:
                return list(pool.map(compiled, extension.sources))

        def build_by_clang_cl(self, extension) -> None:
            objects = self.objects(extension, ["clang-cl", "/c", *WINDOWS_FLAGS], lambda _, target: [f"/Fo{target}"])
            output = self.get_ext_fullpath(extension.name)
            os.makedirs(os.path.dirname(output), exist_ok=True)
            folders = [f"/LIBPATH:{path}" for path in extension.library_dirs]
            libraries = ["c10.lib", "torch_cpu.lib", "torch.lib"]
            command = ["clang-cl", "/nologo", "/LD", *objects, f"/Fe{output}", "/link", *folders, *libraries]
            subprocess.run(command, check=True)

        def build_cuda(self, extension) -> None:
            nvcc, targets = extension.mclnf_nvcc, nvcc_targets(extension.mclnf_nvcc)
            objects = self.objects(
                extension,
                [nvcc, "-c", *NVCC_FLAGS],
                lambda source, target: [*target_flags(source, targets), "-o", target],
            )
            output = self.get_ext_fullpath(extension.name)
            os.makedirs(os.path.dirname(output), exist_ok=True)
            # The CUDA runtime is linked statically and torch's shims are found at load time, in the torch
            # that loads us. The toolkit of pip's packages has its libraries in lib/, where nvcc doesn't look.
            folder = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(nvcc))), "lib")
            subprocess.run([nvcc, "-shared", "-o", output, *objects, f"-L{folder}", "-cudart", "static"], check=True)

        def get_ext_filename(self, name: str) -> str:
            # One file name for every Python: the library has no Python in it.
            return os.path.join(*name.split(".")) + ".so"

    return Build.with_options(no_python_abi_suffix=True)


if __name__ == "__main__":  # not where a test asks for the flags
    ext_modules, cmdclass = extensions()
    setup(ext_modules=ext_modules, cmdclass=cmdclass)
