from __future__ import annotations

import hashlib
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from kgen import cache, compile, env
from kgen.compile import CompilePool, compile_cubin
from kgen.errors import CompileError
from kgen.render import Source

needs_nvrtc = pytest.mark.skipif(env.nvrtc_version() is None, reason="needs CuPy and NVRTC")

TEMPLATES = Path(compile.__file__).parents[1] / "templates"
PTX = {f"ptx/{path.name}": path.read_text() for path in sorted((TEMPLATES / "ptx").glob("*.cuh"))}
EMPTY = 'extern "C" __global__ void k(int* y) { y[0] = 1; }\n'
MMA = (
    "".join(f'#include "{name}"\n' for name in PTX)
    + """
template <class T>
__device__ void body(const T* x, float* y) {
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ float column[32];
    cp_async_16(shared + 16 * threadIdx.x, x + 8 * threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    u32 a[4];
    ldmatrix_x4(a, shared + 16 * threadIdx.x);
    float d[4] = {0, 0, 0, 0};
    mma_m16n8k16<T>(d, a, a[0], a[1]);
    column[threadIdx.x] = unpack<T>(pack<T>(exp2_approx(d[0]), d[1])).low;
    __syncthreads();
    for (int i = 0; i < 4; i++) y[threadIdx.x * 4 + i] = d[i] + column[threadIdx.x ^ 1];
}
extern "C" __global__ void half(const f16* x, float* y) { body(x, y); }
extern "C" __global__ void brain(const bf16* x, float* y) { body(x, y); }
"""
)
SPILLS = """
extern "C" __global__ __launch_bounds__(1024) void spills(const float* x, float* y) {
    float v[200];
#pragma unroll
    for (int i = 0; i < 200; i++) v[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 200; i++) y[i * 1024 + threadIdx.x] = v[199 - i] * v[i];
}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", False)
    return tmp_path / "cache" / "kernels"


def _source(text: str, headers: Mapping[str, str] | None = None) -> Source:
    headers = headers or {}
    key = repr((text, sorted(headers.items())))
    return Source(text, headers, hashlib.sha256(key.encode()).hexdigest())


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The architectures that were really compiled for, in order."""
    found: list[str] = []
    real = compile._build

    def spy(text: str, headers: Mapping[str, str], arch: str, digest: str) -> cache.Cubin:
        found.append(arch)
        return real(text, headers, arch, digest)

    monkeypatch.setattr(compile, "_build", spy)
    return found


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120"])
def test_the_ptx_headers_compile_for_every_arch(arch: str) -> None:
    cubin = compile_cubin(_source(MMA, PTX), arch)
    assert cubin.data.startswith(b"\x7fELF")
    assert cubin.arch == arch
    assert cubin.seconds > 0
    assert set(cubin.resources) == {"half", "brain"}
    for resources in cubin.resources.values():
        assert 8 <= resources.registers <= 64
        assert resources.static_shared_bytes == 128
        assert resources.spill_store_bytes == resources.spill_load_bytes == 0


@needs_nvrtc
def test_spills_are_counted_for_the_kernel_that_spills() -> None:
    resources = compile_cubin(_source(EMPTY + SPILLS), "sm_90").resources
    assert resources["spills"].registers == 64
    assert resources["spills"].spill_store_bytes > 100
    assert resources["spills"].spill_load_bytes > 100
    assert resources["spills"].stack_bytes > 100
    assert resources["k"].spill_store_bytes == resources["k"].stack_bytes == 0


def test_resources_of_functions_that_are_not_inlined_count_to_their_kernel() -> None:
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_90'
ptxas info    : Function properties for a
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 48 bytes cumulative stack size, 1024 bytes smem, 368 bytes cmem[0]
ptxas info    : Function properties for _Z6calleePi
    32 bytes stack frame, 1 bytes spill stores, 2 bytes spill loads
ptxas info    : Compiling entry function 'b' for 'sm_90'
ptxas info    : Function properties for b
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers
"""
    assert compile._parse_resources(log) == {
        "a": compile.Resources(40, 5, 10, 48, 1024),
        "b": compile.Resources(8, 0, 0, 0, 0),
    }


@needs_nvrtc
def test_a_second_compilation_comes_from_the_cache(builds: list[str]) -> None:
    first = compile_cubin(_source(EMPTY), "sm_90")
    assert compile_cubin(_source(EMPTY), "sm_90") == first
    assert builds == ["sm_90"]


@needs_nvrtc
def test_text_headers_arch_options_and_nvrtc_invalidate(builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = '#include "a.h"\n' + EMPTY.replace("= 1", "= VALUE")
    compile_cubin(_source(text, {"a.h": "#define VALUE 1"}), "sm_90")
    first = compile_cubin(_source(text, {"a.h": "#define VALUE 2"}), "sm_90")
    compile_cubin(_source(text + "//", {"a.h": "#define VALUE 2"}), "sm_90")
    compile_cubin(_source(text, {"a.h": "#define VALUE 2"}), "sm_80")
    monkeypatch.setattr(compile, "OPTIONS", (*compile.OPTIONS, "-lineinfo"))
    compile_cubin(_source(text, {"a.h": "#define VALUE 2"}), "sm_90")
    monkeypatch.setattr(compile.env, "nvrtc_version", lambda: "99.0")
    last = compile_cubin(_source(text, {"a.h": "#define VALUE 2"}), "sm_90")
    assert builds == ["sm_90", "sm_90", "sm_90", "sm_80", "sm_90", "sm_90"]
    assert first.digest != last.digest


@needs_nvrtc
def test_a_truncated_entry_is_compiled_again(folder: Path, builds: list[str]) -> None:
    cubin = compile_cubin(_source(EMPTY), "sm_90")
    path = folder / f"{cubin.digest}.cubin"
    path.write_bytes(cubin.data[:100])
    assert compile_cubin(_source(EMPTY), "sm_90").data == path.read_bytes() == cubin.data
    assert builds == ["sm_90", "sm_90"]


@needs_nvrtc
def test_an_unwritable_cache_still_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="cannot be cached") as caught:
        assert compile_cubin(_source(EMPTY), "sm_90").data
        assert compile_cubin(_source(EMPTY), "sm_90").data
    assert len(caught) == 1


@needs_nvrtc
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (EMPTY.replace("= 1", "= nothing"), r'kernel.cu\(1\): error: identifier "nothing" is undefined$'),
        ('#include "none.h"\n', r'kernel.cu\(1\): catastrophic error: cannot open source file "none.h"$'),
        (EMPTY.replace("y[0] = 1", 'asm volatile("foo.s32 1;")'), "ptxas .* error .*foo"),
    ],
    ids=["syntax", "header", "ptx"],
)
def test_a_wrong_source_is_a_sentence_with_the_first_error(folder: Path, text: str, says: str) -> None:
    with pytest.raises(CompileError, match="a source must compile for sm_90, but NVRTC says: .*" + says) as caught:
        compile_cubin(_source(text), "sm_90")
    assert "\n" not in str(caught.value) and "\0" not in caught.value.log
    assert str(caught.value).rsplit("NVRTC says: ", 1)[1] in caught.value.log
    assert not folder.exists() or not list(folder.iterdir())


@needs_nvrtc
def test_too_much_static_shared_memory_is_named_although_ptxas_reports_it_last() -> None:
    text = 'extern "C" __global__ void k(int* y) { __shared__ int s[99999]; s[y[1]] = y[2]; y[0] = s[y[3]]; }'
    with pytest.raises(CompileError, match=r"ptxas error .*'k' uses too much shared data"):
        compile_cubin(_source(text), "sm_90")


@needs_nvrtc
def test_a_source_without_kernels_is_refused() -> None:
    with pytest.raises(CompileError, match="must define a __global__ kernel"):
        compile_cubin(_source("__device__ int f() { return 1; }"), "sm_90")


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_999", "sm_80a"])
def test_an_arch_that_nvrtc_does_not_know_names_the_fix(arch: str) -> None:
    with pytest.raises(CompileError, match=rf"but got {arch}; newer .* pip install -U 'kgen\[cuda13\]'"):
        compile_cubin(_source(EMPTY), arch)


@needs_nvrtc
@pytest.mark.parametrize("arch", ["compute_90", "sm_90 -g", "", "cuda"])
def test_what_is_no_arch_is_refused(arch: str) -> None:
    with pytest.raises(CompileError, match=f"arch must look like sm_90 or sm_90a, but got {arch!r}"):
        compile_cubin(_source(EMPTY), arch)


def test_missing_cupy_names_the_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", None)
    with pytest.raises(CompileError, match=re.escape("pip install 'kgen[cuda13]'")):
        compile_cubin(_source(EMPTY), "sm_90")


def test_the_error_keeps_its_log_between_processes() -> None:
    error = pickle.loads(pickle.dumps(CompileError("message", "log")))
    assert (str(error), error.log) == ("message", "log")


def test_importing_compile_loads_neither_cupy_nor_the_renderer() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; import kgen.compile; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cupy", "cupy_backends", "numpy", "jinja2", "optuna", "kgen.render"} & set(loaded)


@needs_nvrtc
def test_the_pool_compiles_and_reports_errors() -> None:
    with CompilePool(2) as pool:
        good = [pool.submit(_source(EMPTY + f"// {i}"), arch) for i in range(3) for arch in ("sm_80", "sm_90")]
        bad = pool.submit(_source("nonsense"), "sm_90")
        late = pool.submit(_source(MMA, PTX), "sm_90")
    assert [future.result().arch for future in good] == ["sm_80", "sm_90"] * 3
    with pytest.raises(CompileError, match="NVRTC says: kernel") as caught:
        bad.result()
    assert "nonsense" in caught.value.log
    assert late.result() == compile_cubin(_source(MMA, PTX), "sm_90")


@needs_nvrtc
def test_equal_jobs_share_one_future() -> None:
    with CompilePool(1) as pool:
        first = pool.submit(_source(SPILLS), "sm_90")
        assert pool.submit(_source(SPILLS), "sm_90") is first
        assert pool.submit(_source(SPILLS), "sm_80") is not first
        again = first.result() and pool.submit(_source(SPILLS), "sm_90")
    assert again.result() == first.result()


# A child whose compiler obeys the source: it dies, prints, or takes its time.
_ODD_SERVE = """
import os, sys, time
import kgen.compile as c
real = c._build
def build(text, headers, arch, digest):
    if 'die' in text:
        print('out of luck', file=sys.stderr, flush=True)
        os._exit(9)
    if 'print' in text:
        print('not a reply', flush=True)
    if 'sleep' in text:
        time.sleep(60)
    return real(text, headers, arch, digest)
c._build = build
c.serve()
"""


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "_SERVE", f"exec({_ODD_SERVE!r})")


@needs_nvrtc
@pytest.mark.usefixtures("odd")
def test_a_child_that_dies_fails_its_own_job_only() -> None:
    texts = [EMPTY, EMPTY + "// die", EMPTY + "// print", EMPTY + "// die again", EMPTY + "// last"]
    with CompilePool(1) as pool:
        futures = [pool.submit(_source(text), "sm_90") for text in texts]
    for future in (futures[1], futures[3]):
        with pytest.raises(CompileError, match=r"died with exit code 9; .* use fewer processes$") as caught:
            future.result()
        assert caught.value.log.endswith("out of luck")
    assert all(futures[i].result().resources["k"].registers for i in (0, 2, 4))


@needs_nvrtc
@pytest.mark.usefixtures("odd")
def test_leaving_by_an_exception_stops_what_runs_and_drops_what_waits() -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), CompilePool(1) as pool:
        pool.submit(_source(EMPTY), "sm_90").result()
        running = pool.submit(_source(EMPTY + "// sleep"), "sm_90")
        waiting = pool.submit(_source(EMPTY + "// waits"), "sm_90")
        while not running.running():
            time.sleep(0.01)
        children = [child._process for child in pool._children]
        for process in children:
            os.kill(process.pid, signal.SIGINT)  # which a child ignores
        raise KeyboardInterrupt
    assert time.monotonic() - start < 10
    assert waiting.cancelled()
    with pytest.raises(CompileError, match="its pool was shut down"):
        running.result()
    assert [process.poll() for process in children] == [-signal.SIGKILL]
    with pytest.raises(RuntimeError):
        pool.submit(_source(EMPTY), "sm_90")


def test_a_pool_that_did_nothing_closes_and_closes_again() -> None:
    pool = CompilePool(2)
    pool.shutdown()
    pool.shutdown(cancel=True)
    assert not pool._children


_WAITS = """
from kgen import compile as c
from kgen.render import Source
c._SERVE = "import time; time.sleep(60)"
with c.CompilePool(2) as pool:
    for i in range(9):
        pool.submit(Source("", {}, str(i)), "sm_90")
    while len(pool._children) < 2:
        pass
    print(*[child._process.pid for child in pool._children], flush=True)
"""


@needs_nvrtc
def test_ctrl_c_while_waiting_ends_the_pool_and_its_children() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}\n{_WAITS}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        children = [int(pid) for pid in process.stdout.readline().split()]
        time.sleep(0.2)  # into the wait at the end of the with block
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) != 0
        assert process.stderr.read().strip().endswith(b"KeyboardInterrupt")
    assert len(children) == 2
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
