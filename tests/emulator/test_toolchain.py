"""Finding a compiler, building, and the cache of built libraries."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kgen.emulator import HostLibrary, build, toolchain
from kgen.errors import CompileError

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]
MakeSource = Callable[[str], Any]

TEXT = """
KERNEL(fill) {
    unsigned char* shared = dynamic_shared_memory();
    float v = static_cast<float>(threadIdx.x);
    for (int i = 0; i < 4; ++i) store_shared_u32(shared + threadIdx.x * 16 + i * 4, pack<f16>(v, v));
    __syncthreads();
    float d[4] = {};
    u32 a[4] = {};
    mma_m16n8k16<f16>(d, a, 0, 0);
    store_global_16(y + threadIdx.x * 8, load_shared_16(shared + (threadIdx.x ^ 32) * 16));
}
"""


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    return tmp_path / "emulator"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Compilers found by one test are not another's."""
    toolchain.find_compiler.cache_clear()
    yield
    toolchain.find_compiler.cache_clear()


def check(library: HostLibrary, launch: Launch) -> None:
    y = launch(library, "fill", threads=64)[:512].reshape(64, 8)
    np.testing.assert_array_equal(y, np.repeat(np.arange(64) ^ 32, 8).reshape(64, 8))


def builds(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_second_build_comes_from_the_cache(
    make_source: MakeSource, launch: Launch, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(TEXT)
    check(build(source), launch)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(toolchain, "_compile", refuse)
    check(build(source), launch)
    assert len(list(own_cache.iterdir())) == 1
    with pytest.raises(AssertionError, match="compiled again"):
        build(make_source(TEXT + "// changed"))


def test_damaged_library_is_built_again(make_source: MakeSource, launch: Launch, own_cache: Path) -> None:
    source = make_source(TEXT)
    build(source)
    (folder,) = builds(own_cache)
    (folder / "kernel.so").unlink()
    (folder / "kernel.so").write_bytes(b"\x7fELF nonsense")
    check(build(source), launch)
    assert len(builds(own_cache)) == 1
    assert (folder / "kernel.so").stat().st_size > 1000


def test_concurrent_builds_agree(make_source: MakeSource, launch: Launch, own_cache: Path) -> None:
    source = make_source(TEXT)
    with ThreadPoolExecutor(3) as pool:
        libraries = list(pool.map(lambda _: build(source), range(3)))
    for library in libraries:
        check(library, launch)
    assert [path.name for path in own_cache.iterdir()] == [path.name for path in builds(own_cache)]
    assert len(builds(own_cache)) == 1


def test_unwritable_cache_warns_and_compiles(
    make_source: MakeSource, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="without a cache"):
        library = build(make_source(TEXT))
    check(library, launch)


def test_compile_error_has_the_log(make_source: MakeSource, own_cache: Path) -> None:
    with pytest.raises(CompileError, match=r"rejected it: .*kernel.cu:\d+.*undeclared_name") as caught:
        build(make_source("KERNEL(bad) { undeclared_name; }"))
    assert "error" in caught.value.log
    assert list(own_cache.iterdir()) == []


def test_missing_host_header_is_named(make_source: MakeSource) -> None:
    source = make_source(TEXT)
    source.headers["ptx/tensor_map.cuh"] = 'asm("tensormap");'
    try:
        with pytest.raises(CompileError, match=r"host version of ptx/tensor_map.cuh"):
            build(source)
    finally:
        del source.headers["ptx/tensor_map.cuh"]


def test_other_headers_come_from_the_source(make_source: MakeSource, launch: Launch) -> None:
    source = make_source(
        TEXT.replace("KERNEL(fill)", '#include "tile/one.cuh"\nKERNEL(fill)').replace("^ 32", "^ BITS")
    )
    source.headers["tile/one.cuh"] = '#pragma once\n#include "tile/two.cuh"\n#include "ptx/mma.cuh"\n'
    source.headers["tile/two.cuh"] = "constexpr int BITS = 32;\n"
    try:
        check(build(source), launch)
    finally:
        del source.headers["tile/one.cuh"], source.headers["tile/two.cuh"]


def test_no_compiler_names_the_ways_to_get_one(
    make_source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CompileError, match=r"needs a C\+\+ compiler, but found none; .*CXX.*pip install ziglang"):
        build(make_source(TEXT))


def test_wrong_cxx_is_not_replaced_in_silence(make_source: MakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    with pytest.raises(CompileError, match="CXX must name a working"):
        build(make_source(TEXT))


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_portable_fibres(
    make_source: MakeSource, launch: Launch, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "g++ -DKGEN_EMULATOR_UCONTEXT")
    check(build(make_source(TEXT)), launch)


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
def test_ziglang_builds_when_nothing_else_is_there(
    make_source: MakeSource, launch: Launch, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ziglang" in toolchain.find_compiler("", str(tmp_path)).command
    check(build(make_source(TEXT)), launch)


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
def test_sources_compile_for_aarch64(tmp_path: Path) -> None:
    for name in toolchain.RUNTIME:
        subprocess.run(
            [
                *(sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu", "-std=c++17", "-O2", "-c"),
                *(str(toolchain.HERE / name), f"-I{toolchain.HERE / 'include'}", "-o", str(tmp_path / "out.o")),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        assert (tmp_path / "out.o").stat().st_size > 0
