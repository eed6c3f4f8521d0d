"""The CPU code generator's backend: LLVM text in, callable machine code out, nothing left behind."""

import ctypes
import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

from nufunc.codegen import backend, blas

SCALE = """
define i32 @scale(ptr %x, ptr %y, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %p = getelementptr double, ptr %x, i64 %i
  %v = load double, ptr %p
  %w = fmul double %v, {factor}
  %q = getelementptr double, ptr %y, i64 %i
  store double %w, ptr %q
  %next = add i64 %i, 1
  %done = icmp eq i64 %next, %n
  br i1 %done, label %exit, label %loop
exit:
  ret i32 7
}}
"""


def scale(executable: backend.Executable, x: np.ndarray) -> np.ndarray:
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    y = np.empty_like(x)
    assert function(executable.address("scale"))(x.ctypes.data, y.ctypes.data, x.size) == 7
    return y


def resident_kilobytes() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def test_compiles_and_runs() -> None:
    x = np.arange(10.0)
    executable = backend.compile_module(SCALE.format(factor="3.0"), "three")
    np.testing.assert_array_equal(scale(executable, x), 3 * x)
    assert "define" in executable.llvm()
    assert "scale" in executable.assembly()


def test_modules_with_the_same_symbol_do_not_meet() -> None:
    x = np.arange(4.0)
    executables = [backend.compile_module(SCALE.format(factor=f"{k}.0"), "same") for k in range(5)]
    for k, executable in enumerate(executables):
        np.testing.assert_array_equal(scale(executable, x), k * x)


def test_object_code_loads_again_here_and_elsewhere() -> None:
    executable = backend.compile_module(SCALE.format(factor="0x3FF3C083126E978D"), "constant")
    again = backend.load_object(executable.object_code, "again")
    x = np.arange(5.0)
    np.testing.assert_array_equal(scale(again, x), scale(executable, x))
    with pytest.raises(backend.BackendError, match="loaded from object code"):
        again.llvm()
    program = (
        "import sys, ctypes, numpy as np\n"
        "from nufunc.codegen import backend\n"
        "e = backend.load_object(sys.stdin.buffer.read(), 'other')\n"
        "x = np.arange(5.0); y = np.empty(5); P = ctypes.c_void_p\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_int32, P, P, ctypes.c_int64)(e.address('scale'))\n"
        "f(x.ctypes.data, y.ctypes.data, 5)\n"
        "print(y.tolist() == (x * 1.2345).tolist())\n"
    )
    out = subprocess.run([sys.executable, "-c", program], input=executable.object_code, capture_output=True)
    assert out.stdout.decode().strip() == "True", out.stderr.decode()


def test_constants_and_library_calls_work_in_position_independent_code() -> None:
    text = """
    @values = private constant [3 x double] [double 1.5, double 2.5, double 4.5]
    declare double @llvm.cos.f64(double)
    declare double @hypot(double, double)
    define double @f(i64 %i, double %x) {
      %p = getelementptr [3 x double], ptr @values, i64 0, i64 %i
      %v = load double, ptr %p
      %c = call double @llvm.cos.f64(double %x)
      %h = call double @hypot(double %v, double %c)
      ret double %h
    }"""
    executable = backend.compile_module(text, "constants")
    f = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_double)(executable.address("f"))
    for index, value in enumerate((1.5, 2.5, 4.5)):
        assert f(index, 0.3) == pytest.approx(np.hypot(value, np.cos(0.3)), rel=1e-15)


def test_refusals_are_python_errors() -> None:
    with pytest.raises(backend.BackendError, match="refused module 'bad'"):
        backend.compile_module("define void @f() { ret i32 0 }", "bad")
    call = "declare void @no_such_symbol()\ndefine void @f() {\n call void @no_such_symbol()\n ret void\n}"
    with pytest.raises(backend.BackendError, match="no_such_symbol"):
        backend.compile_module(call, "unresolved")
    with pytest.raises(backend.BackendError, match="no symbol 'other'"):
        backend.compile_module(SCALE.format(factor="1.0"), "m").address("other")


def test_close_frees_unless_held() -> None:
    executable = backend.compile_module(SCALE.format(factor="2.0"), "closed")
    executable.close()
    with pytest.raises(backend.BackendError, match="closed"):
        executable.address("scale")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat_over_300_modules() -> None:
    def compile_some(count: int) -> None:
        for k in range(count):
            backend.compile_module(SCALE.format(factor=f"{k}.0"), f"m{k}").address("scale")

    compile_some(40)
    before = resident_kilobytes()
    compile_some(300)
    assert resident_kilobytes() - before < 300 * 6  # Numba's own pass managers alone would leave 60 KB each


def test_threads_compile_at_once() -> None:
    x = np.arange(6.0)
    wrong = []

    def work(k: int) -> None:
        executable = backend.compile_module(SCALE.format(factor=f"{k}.0"), f"t{k}")
        if not np.array_equal(scale(executable, x), k * x):
            wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_target_describes_the_host() -> None:
    target = backend.target()
    assert target is backend.target()
    assert target.pointer_bits == 8 * ctypes.sizeof(ctypes.c_void_p)
    assert target.vector_bits in (128, 256, 512)
    assert target.lanes(8) * 64 == target.vector_bits
    assert target.cpu in target.key
    assert target.has("sse2") or target.triple.startswith(("aarch64", "arm64"))
    assert not target.has("no-such-feature")


class Kept(dict):
    def put(self, key: str, data: bytes, about: str) -> None:
        self[key] = data


def test_the_target_is_kept_for_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = backend._asked_target
    monkeypatch.setattr(backend, "_store", Kept())
    monkeypatch.setattr(backend, "_numba_decides", lambda: False)
    monkeypatch.setattr(backend, "_processor", lambda: "one")
    monkeypatch.setattr(backend, "_asked_target", lambda versions: asked.append(versions) or ask(versions))
    found = [backend._host_target.__wrapped__() for _ in range(2)]
    assert found[0] == found[1]
    assert len(asked) == 1
    for processor in ("another", None, None):
        monkeypatch.setattr(backend, "_processor", lambda processor=processor: processor)
        assert backend._host_target.__wrapped__() == found[0]
    assert len(asked) == 4
    monkeypatch.setattr(backend, "_processor", lambda: "one")
    monkeypatch.setattr(backend, "_numba_decides", lambda: True)
    backend._host_target.__wrapped__()
    assert len(asked) == 5


def test_unknown_numba_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    monkeypatch.setattr(numba, "__version__", "0.99.0")
    with pytest.raises(backend.BackendError, match=r"found numba 0\.99\.0"):
        backend._codegen.__wrapped__()


def test_vectors_of_the_full_width_are_used() -> None:
    lanes = backend.target().lanes(8)
    text = f"""
    define void @f(ptr %x) {{
      %v = load <{lanes} x double>, ptr %x, align 8
      %w = fmul <{lanes} x double> %v, %v
      store <{lanes} x double> %w, ptr %x, align 8
      ret void
    }}"""
    executable = backend.compile_module(text, "vectors")
    x = np.arange(float(lanes))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(executable.address("f"))(x.ctypes.data)
    np.testing.assert_array_equal(x, np.arange(float(lanes)) ** 2)
    if backend.target().vector_bits == 512:
        assert "zmm" in executable.assembly()


def test_blas_address_multiplies() -> None:
    m, n, k = (ctypes.c_int(v) for v in (2, 3, 4))
    rng = np.random.default_rng(0)
    a, b = (np.asfortranarray(rng.normal(size=s)) for s in ((2, 4), (4, 3)))
    c = np.zeros((2, 3), order="F")
    one, zero, no = ctypes.c_double(1), ctypes.c_double(0), ctypes.c_char(b"N")
    ref = ctypes.byref
    gemm = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)(blas.address("dgemm"))
    pointers = [
        ref(no),
        ref(no),
        ref(m),
        ref(n),
        ref(k),
        ref(one),
        a.ctypes.data,
        ref(m),
        b.ctypes.data,
        ref(k),
    ]
    gemm(*[ctypes.cast(p, ctypes.c_void_p) for p in (*pointers, ref(zero), c.ctypes.data, ref(m))])
    np.testing.assert_allclose(c, a @ b, rtol=1e-14)


BLAS = "gemm gemv trsm trmm scal axpy copy syrk".split()
LAPACK = "potrf potrs getrf getrs getri gesv trtrs gesdd geev geqrf".split()
REAL_OR_COMPLEX = (
    "sger dger cgeru zgeru cgerc zgerc sdot ddot cherk zherk dsyevd zheevd dorgqr zungqr".split()
)


@pytest.mark.parametrize(
    "name", [*(kind + name for name in BLAS + LAPACK for kind in "sdcz"), *REAL_OR_COMPLEX]
)
def test_blas_and_lapack_entries_exist(name: str) -> None:
    assert blas.address(name) == blas.address(name) != 0


def test_unknown_routine() -> None:
    with pytest.raises(blas.BlasError, match="no routine 'dnothing'"):
        blas.address("dnothing")


def test_blas_loads_without_scipy_linalg_and_leaves_it_usable() -> None:
    program = (
        "import sys\n"
        "from nufunc.codegen import blas\n"
        "blas.address('dgemm'); blas.address('dgetrf'); blas.set_threads_local_address()\n"
        "assert 'scipy.linalg' not in sys.modules and 'scipy.linalg.cython_blas' not in sys.modules\n"
        "import numpy as np, scipy.linalg\n"
        "from scipy.linalg import cython_blas\n"
        "assert 'dgemm' in cython_blas.__pyx_capi__\n"
        "print(scipy.linalg.solve(np.eye(2), np.ones(2)).tolist())\n"
    )
    out = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert out.stdout.strip() == "[1.0, 1.0]", out.stderr
