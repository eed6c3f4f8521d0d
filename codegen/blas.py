"""Addresses of BLAS and LAPACK routines, from the capsules of scipy.linalg.cython_blas and cython_lapack.

Note [BLAS calling convention]
Fortran's: every argument is a pointer, integers are 32-bit signed (`int*`), matrices are column-major with a
leading dimension, characters are pointers to one byte (SciPy's wrappers pass no hidden string lengths).
Complex scalars are pointers to two reals. s d c z stand for f32 f64 c64 c128; op(a) is a, its transpose or
its conjugate transpose by "N", "T", "C". LAPACK's last argument is `int *info`.

    ?gemm (transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)       c = alpha op(a) op(b) + beta c
    ?gemv (trans, m, n, alpha, a, lda, x, incx, beta, y, incy)                 y = alpha op(a) x + beta y
    ?ger  (m, n, alpha, x, incx, y, incy, a, lda)                              a += alpha x y^T; geru, gerc
    ?syrk (uplo, trans, n, k, alpha, a, lda, beta, c, ldc)                     c = alpha a a^T + beta c; herk
    ?trsm (side, uplo, transa, diag, m, n, alpha, a, lda, b, ldb)              b = alpha op(a)^-1 b
    ?trmm (side, uplo, transa, diag, m, n, alpha, a, lda, b, ldb)              b = alpha op(a) b
    ?axpy (n, alpha, x, incx, y, incy)
    ?scal (n, alpha, x, incx)
    ?copy (n, x, incx, y, incy)
    sdot, ddot (n, x, incx, y, incy)                                           returns the scalar by value

    ?potrf (uplo, n, a, lda, info)
    ?potrs (uplo, n, nrhs, a, lda, b, ldb, info)
    ?getrf (m, n, a, lda, ipiv, info)
    ?getrs (trans, n, nrhs, a, lda, ipiv, b, ldb, info)
    ?getri (n, a, lda, ipiv, work, lwork, info)
    ?gesv  (n, nrhs, a, lda, ipiv, b, ldb, info)
    ?trtrs (uplo, trans, diag, n, nrhs, a, lda, b, ldb, info)
    ?geqrf (m, n, a, lda, tau, work, lwork, info)
    ?orgqr (m, n, k, a, lda, tau, work, lwork, info)                           cz: ungqr
    ?syevd (jobz, uplo, n, a, lda, w, work, lwork, iwork, liwork, info)        sd
    ?heevd (jobz, uplo, n, a, lda, w, work, lwork, rwork, lrwork, iwork, liwork, info)                 cz
    ?geev  (jobvl, jobvr, n, a, lda, wr, wi, vl, ldvl, vr, ldvr, work, lwork, info)                    sd
    ?geev  (jobvl, jobvr, n, a, lda, w, vl, ldvl, vr, ldvr, work, lwork, rwork, info)                  cz
    ?gesdd (jobz, m, n, a, lda, s, u, ldu, vt, ldvt, work, lwork, iwork, info)     cz: rwork before iwork

A `lwork` of -1 asks for the best size, returned in work[0]. cdotu, zdotu, cdotc and zdotc return a complex
number by value, whose convention differs between compilers: generated code writes the loop instead.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.machinery
import importlib.util
import pathlib
import sys
from types import ModuleType

from nufunc.codegen import abi
from nufunc.ir.errors import NufuncError


class BlasError(NufuncError, LookupError):
    """SciPy's BLAS or LAPACK has no such routine."""


def _extension_file(name: str) -> pathlib.Path | None:
    """The file of scipy.linalg.<name>, found without importing SciPy."""
    scipy = importlib.util.find_spec("scipy")
    if scipy is None or not scipy.submodule_search_locations:
        return None
    for folder in scipy.submodule_search_locations:
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            file = pathlib.Path(folder) / "linalg" / (name + suffix)
            if file.is_file():
                return file
    return None


@functools.cache
def _capsules(name: str) -> dict[str, object]:
    """The routines of scipy.linalg.<name>.

    Importing it the usual way imports scipy.linalg first, ten times the cost; so the extension file alone is
    loaded, and stays out of sys.modules: a later `import scipy.linalg` must find nothing half made. Where
    that does not work (another layout, an extension that needs its package) the usual import serves.
    """
    full_name = f"scipy.linalg.{name}"
    module: ModuleType | None = sys.modules.get(full_name)
    file = _extension_file(name)
    if module is None and file is not None:
        loader = importlib.machinery.ExtensionFileLoader(full_name, str(file))
        spec = importlib.util.spec_from_file_location(full_name, file, loader=loader)
        if spec is not None:
            try:
                module = importlib.util.module_from_spec(spec)
                loader.exec_module(module)
            except ImportError:
                module = None
            sys.modules.pop(full_name, None)  # Cython's start-up code puts it there
    if module is None:
        module = importlib.import_module(full_name)
    return dict(module.__pyx_capi__)


@functools.cache
def address(name: str) -> int:
    """The address of a routine by its lower-case name without underscore: "dgemm", "zpotrf". See Note [BLAS
    calling convention]."""
    for extension in ("cython_blas", "cython_lapack"):
        capsule = _capsules(extension).get(name)
        if capsule is not None:
            return abi.capsule_pointer(capsule)
    raise BlasError(f"SciPy's BLAS and LAPACK have no routine {name!r}")


@functools.cache
def set_threads_local_address() -> int:
    """The address of `int openblas_set_num_threads_local(int)` of SciPy's OpenBLAS; 0 where this BLAS has
    none.

    It returns the number of threads that was set before. Despite its name an OpenBLAS built on pthreads (the
    one in SciPy's wheels) sets the number for the whole process, and not atomically: whoever calls it must
    set the old number again, and may not count on it while other threads use BLAS.
    """
    file = _extension_file("cython_blas")
    _capsules("cython_blas")
    if file is None:
        return 0
    library = ctypes.CDLL(str(file))
    for name in ("scipy_openblas_set_num_threads_local", "openblas_set_num_threads_local"):
        function = getattr(library, name, None)
        if function is not None:
            return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
    return 0
