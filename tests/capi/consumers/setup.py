"""Builds the consumers as another package would, with every warning an error."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

import csoftmax

MSVC = os.name == "nt"
WARNINGS = ["/W3", "/WX"] if MSVC else ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
OPTIMISED = "/O1" if MSVC else "-O1"


def consumer(name, sources, flags):
    return Extension(
        name,
        sources,
        include_dirs=[csoftmax.get_include()],
        extra_compile_args=[OPTIMISED, *flags],
        depends=["module.c", "work.h"],
    )


setup(
    name="consumers",
    ext_modules=[
        consumer("consumer_c", ["module.c", "work.c"], [*([] if MSVC else ["-std=c99"]), *WARNINGS]),
        consumer("consumer_cpp", ["module.cpp", "work.c"], WARNINGS),
        *cythonize([Extension("consumer", ["consumer.pyx"], extra_compile_args=[OPTIMISED])]),
    ],
)
