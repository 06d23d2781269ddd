"""
Builds the extension modules: fastkv._core from src/fastkv/_core.pyx and every .cc of the core's layers, and
fastkv._front from _front.pyx, cpp/front and the layers that it needs. The second one needs nghttp2, asio and OpenSSL:
where their headers are missing the build says which and leaves it out, and `fastkv serve` uses grpcio.

Everything else about the package stands in pyproject.toml. What setuptools does not do by itself:
* the .cc files are compiled side by side, and one is compiled again only if it, a header it includes (the compiler's
  own dependency file says which) or the command line has changed. Objects live in build/objects, whatever the front end
  (pip, build, setup.py), so a second build takes a second.

Environment:
  FASTKV_PURE=1                     no extension: the slow pure-Python engine only (FASTKV_ENGINE=python at run time)
  FASTKV_SANITIZE=address|thread    instrument the extension; needs the sanitizer's runtime preloaded into Python
  FASTKV_JOBS=N                     compilers at a time (default: the cores this process may use)
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LAYERS = ("base", "proto", "mvcc", "log", "watch", "db")
# The state lives in _core: nothing of the store is linked a second time.
FRONT_LAYERS = ("proto", "front")
# A header of each library that the front end needs -> the Debian package that has it.
FRONT_HEADERS = {
    "nghttp2/nghttp2.h": "libnghttp2-dev",
    "asio/io_context.hpp": "libasio-dev",
    "openssl/ssl.h": "libssl-dev",
}
FRONT_LIBRARIES = ["nghttp2", "ssl", "crypto"]
COMPILE_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
]
SANITIZERS = {
    "": [],
    "address": [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
        "-g1",
        "-O1",
    ],
    "thread": ["-fsanitize=thread", "-fno-omit-frame-pointer", "-g1", "-O1"],
}
GENERATED_FLAGS = [
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
]  # Cython's C++


def sources(layers: tuple[str, ...]) -> list[str]:
    """Their translation units, relative to the root (setuptools wants relative paths), in a fixed order."""
    return [str(path.relative_to(ROOT)) for layer in layers for path in sorted((ROOT / "cpp" / layer).glob("*.cc"))]


def missing_for_front() -> list[str]:
    """Which packages of FRONT_HEADERS the compiler does not find."""
    compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")
    flags = shlex.split(os.environ.get("CPPFLAGS", "") + " " + os.environ.get("CXXFLAGS", ""))
    missing = []
    for header, package in FRONT_HEADERS.items():
        program = f"#include <{header}>\n"
        command = [*compiler, "-std=c++20", "-DASIO_STANDALONE", *flags, "-x", "c++", "-E", "-o", os.devnull, "-"]
        if subprocess.run(command, input=program, text=True, stderr=subprocess.DEVNULL).returncode:
            missing.append(f"{package} ({header})")
    return missing


def sanitizer_flags() -> list[str]:
    wanted = os.environ.get("FASTKV_SANITIZE", "")
    if wanted not in SANITIZERS:
        sys.exit(f"FASTKV_SANITIZE={wanted!r}: it is address or thread")
    return SANITIZERS[wanted]


def jobs() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("FASTKV_JOBS", cores))


class CachedBuild(build_ext):
    """build_ext that compiles side by side and only what has changed."""

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type != "unix":
            sys.exit("fastkv's native engine builds on Linux and macOS; FASTKV_PURE=1 installs the pure-Python one")
        target = Path(self.get_ext_fullpath(ext.name))
        with ThreadPoolExecutor(jobs()) as pool:
            objects = list(pool.map(lambda source: self._object(ext, source), ext.sources))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, str(target), extra_postargs=ext.extra_link_args, target_lang="c++")

    def _object(self, ext: Extension, source: str) -> str:
        """Compile one source unless its object is newer than all it was made from; returns the object's path."""
        generated = not source.startswith("cpp" + os.sep)
        flags = ext.extra_compile_args + (GENERATED_FLAGS if generated else [])
        # The core's own sources know nothing of Python, so all interpreters could share their objects; the compiler's
        # command line differs between interpreters all the same, and it is what the object depends on.
        command = [
            *self.compiler.compiler_so,
            *getattr(self.compiler, "compiler_so_cxx", []),
            *ext.include_dirs,
            *flags,
        ]
        key = hashlib.sha256("\0".join([sys.implementation.cache_tag, *command]).encode()).hexdigest()[:16]
        directory = ROOT / "build" / "objects" / key
        target = directory / Path(source).with_suffix(".o")
        depfile = target.with_suffix(".d")
        if up_to_date(target, depfile):
            return str(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.compile(
            [source],
            output_dir=str(directory),
            include_dirs=ext.include_dirs,
            extra_postargs=[*flags, "-MMD", "-MF", str(depfile)],
        )
        return str(target)


def up_to_date(target: Path, depfile: Path) -> bool:
    """Whether the object exists and is newer than everything its dependency file names."""
    if not target.exists() or not depfile.exists():
        return False
    made = target.stat().st_mtime_ns
    named = shlex.split(re.sub(r"\\\n", " ", depfile.read_text()).partition(": ")[2])
    return all(os.path.exists(path) and os.stat(path).st_mtime_ns <= made for path in named)


def extensions() -> list[Extension]:
    if os.environ.get("FASTKV_PURE") == "1":
        return []
    # Imported here: a source distribution's metadata and a pure build need no Cython.
    from Cython.Build import cythonize

    core = Extension(
        "fastkv._core",
        ["src/fastkv/_core.pyx", *sources(LAYERS)],
        include_dirs=["cpp"],
        extra_compile_args=[*COMPILE_FLAGS, *sanitizer_flags()],
        extra_link_args=["-pthread", *sanitizer_flags()],
        language="c++",
    )
    modules = [core]
    if missing := missing_for_front():
        print(f"fastkv: the native front end is left out, for want of {', '.join(missing)}", file=sys.stderr)
    else:
        modules.append(
            Extension(
                "fastkv._front",
                ["src/fastkv/_front.pyx", *sources(FRONT_LAYERS)],
                include_dirs=["cpp"],
                extra_compile_args=[*COMPILE_FLAGS, *sanitizer_flags()],
                extra_link_args=["-pthread", *(f"-l{name}" for name in FRONT_LIBRARIES), *sanitizer_flags()],
                language="c++",
            )
        )
    return cythonize(modules, build_dir="build/cython", include_path=["src"], language_level=3)


os.chdir(ROOT)
setup(ext_modules=extensions(), cmdclass={"build_ext": CachedBuild})
