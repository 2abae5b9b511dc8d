#!/usr/bin/env bash
# Makes the arm64 root that `TRUST_ARM64=DIR python tools/trust.py neon` runs in: Debian 12's Python 3.11 and the
# wheels that the tests need, unpacked, nothing installed.    tools/arm64.sh DIR
# Needs: apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross; dpkg --add-architecture arm64
set -euo pipefail
mkdir -p "$1/debs" "$1/wheels" "$1/site"
cd "$1"
packages=(python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev libc6 libexpat1 zlib1g
    libssl3 libffi8 libgcc-s1 libstdc++6 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libcrypt1)
(cd debs && apt-get download "${packages[@]/%/:arm64}")
for package in debs/*.deb; do dpkg-deb -x "$package" .; done
python3 -m pip download -q -d wheels --only-binary=:all: --python-version 3.11 --implementation cp \
    --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 \
    'numpy>=2' ml_dtypes 'cython>=3.3' 'setuptools>=77' pytest pytest-benchmark hypothesis mpmath
for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" site; done
