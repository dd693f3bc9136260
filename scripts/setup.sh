#!/bin/sh
# Makes sure that what the build needs from the system is there: a C++20 compiler, make, libclang.
# As root it installs what is missing through the package manager, otherwise it names the packages and stops.
# Usage: scripts/setup.sh [python|go|java|node]...   (the names add what the SDK tests of that language need)
set -eu

missing=""
need() { missing="$missing $1"; }

# bindgen loads libclang at build time and reads C headers with it.
have_libclang() {
    if [ -n "${LIBCLANG_PATH:-}" ]; then return 0; fi
    ls /usr/lib/llvm-*/lib/clang/*/include/stdbool.h /usr/lib*/clang/*/include/stdbool.h >/dev/null 2>&1 || return 1
    for found in /usr/lib/llvm-*/lib/libclang.so* /usr/lib/llvm-*/lib/libclang-[0-9]*.so* \
        /usr/lib/*-linux-gnu/libclang-[0-9]*.so* /usr/lib/*-linux-gnu/libclang.so* \
        /usr/lib64/libclang.so* /usr/lib64/llvm*/lib*/libclang.so* /usr/lib/libclang.so* /usr/local/lib/libclang.so*; do
        if [ -e "$found" ]; then return 0; fi
    done
    return 1
}

# Debian's libclang-dev is a large bundle; the runtime library and the headers of the same version are enough.
libclang_packages() {
    version=$(apt-cache depends libclang-dev 2>/dev/null | sed -n 's/.*Depends: libclang-\([0-9]*\)-dev.*/\1/p' | head -n 1)
    if [ -n "$version" ] && apt-cache show "libclang1-$version" >/dev/null 2>&1; then
        echo "libclang1-$version libclang-common-$version-dev"
    else
        echo "libclang-dev"
    fi
}

rust() {
    if command -v cargo >/dev/null 2>&1 || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then return 0; fi
    echo "setup: cargo was not found. Install the Rust toolchain (rustup, see https://rustup.rs), then run this again." >&2
    exit 1
}

look() {
    missing=""
    command -v "${CXX:-g++}" >/dev/null 2>&1 || need g++
    command -v "${CC:-gcc}" >/dev/null 2>&1 || need gcc
    command -v make >/dev/null 2>&1 || need make
    command -v flock >/dev/null 2>&1 || need util-linux
    have_libclang || need libclang
    for language in "$@"; do
        case "$language" in
            python)
                command -v python3 >/dev/null 2>&1 || need python3
                python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || need python3-venv
                ;;
            go) command -v go >/dev/null 2>&1 || need golang ;;
            java)
                command -v javac >/dev/null 2>&1 || need default-jdk-headless
                command -v mvn >/dev/null 2>&1 || need maven
                ;;
            node)
                command -v node >/dev/null 2>&1 || need nodejs
                command -v npm >/dev/null 2>&1 || need npm
                ;;
            rust) ;;
            *) echo "setup: unknown language $language (python, go, java, node, rust)" >&2; exit 2 ;;
        esac
    done
}

rust
look "$@"
if [ -z "$missing" ]; then exit 0; fi

if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: missing:$missing" >&2
    echo "setup: install them with this system's package manager (the names above are Debian's; libclang is clang-libs or clang elsewhere)." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    packages=$(echo "$missing" | sed "s/libclang/$(libclang_packages)/")
    echo "setup: missing:$missing" >&2
    echo "setup: run this once, then the same command again:" >&2
    echo "    sudo apt-get install --no-install-recommends$packages" >&2
    exit 1
fi
echo "setup: installing$missing through apt-get"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
packages=$(echo "$missing" | sed "s/libclang/$(libclang_packages)/")
# shellcheck disable=SC2086 # a list of package names
apt-get install -y -qq --no-install-recommends $packages </dev/null >/dev/null
look "$@"
if [ -n "$missing" ]; then
    echo "setup: still missing after the installation:$missing" >&2
    exit 1
fi
echo "setup: done"
