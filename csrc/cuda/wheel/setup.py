"""Builds the wheel `mclnf-fast-cuda` by the rules of the setup.py of the checkout that this folder is in.

TORCH_CUDA_ARCH_LIST and MAX_JOBS count as there. Without nvcc, or if it fails, there is no wheel.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import runpy
import sys

from setuptools import setup

ROOT = pathlib.Path(__file__).resolve().parents[3]


def extensions(rules: dict) -> tuple[list, dict]:
    if not rules["builds"]():
        return [], {}
    if "PKG-INFO" in os.listdir():
        sys.exit("mclnf-fast-cuda is built in a checkout of mclnf_fast, whose sources it needs")
    os.environ["MCLNF_CUDA"] = "1"
    if rules["find_nvcc"]() is None:
        with contextlib.suppress(ImportError):  # what pip's packages have, which know no toolkit's folder
            nvidia = importlib.import_module("nvidia")
            os.environ["CUDA_HOME"] = os.path.join(next(iter(nvidia.__path__)), "cu13")
    with contextlib.chdir(ROOT):
        built = rules["cuda_extension"](None, "mclnf_fast_cuda._C_cuda")
    if not built:
        sys.exit("mclnf-fast-cuda needs nvcc: on the PATH, in the bin/ of CUDA_HOME, or as pip's nvidia-cuda-nvcc")
    for extension in built:
        extension.sources = [os.path.relpath(ROOT / source) for source in extension.sources]  # setuptools wants it so
    return built, {"build_ext": rules["build_command"](), "bdist_wheel": rules["Wheel"]}


rules = runpy.run_path(str(ROOT / "setup.py"))
ext_modules, cmdclass = extensions(rules)
version = runpy.run_path(str(pathlib.Path(__file__).parent / "mclnf_fast_cuda" / "__init__.py"))["__version__"]
setup(ext_modules=ext_modules, cmdclass=cmdclass, install_requires=[f"mclnf-fast=={version}"])
