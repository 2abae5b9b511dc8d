"""Builds the consumers as another package would, with every warning an error."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import csoftmax

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def consumer(name, sources, flags):
    return Extension(
        name,
        sources,
        include_dirs=[csoftmax.get_include()],
        extra_compile_args=["-O1", *flags],
        depends=["module.c", "work.h"],
    )


setup(
    name="consumers",
    ext_modules=[
        consumer("consumer_c", ["module.c", "work.c"], ["-std=c99", *WARNINGS]),
        consumer("consumer_cpp", ["module.cpp", "work.c"], WARNINGS),
        *cythonize([Extension("consumer", ["consumer.pyx"], extra_compile_args=["-O1"])]),
    ],
)
