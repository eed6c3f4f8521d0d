"""Array: the traced value that user code handles as if it were a numpy.ndarray or NumPy scalar."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from nufunc.ir.errors import DTypeError, Location, ShapeError, TraceError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import ArrayType
from nufunc.tracer.array_operators import Operators, namespace
from nufunc.tracer.usercode import user_location

if TYPE_CHECKING:
    from nufunc.tracer.trace import Trace


class Root:
    """The memory that an array and its views share; `version` counts the writes to it."""

    __slots__ = ("version",)

    def __init__(self) -> None:
        self.version = 0


class Flags(NamedTuple):
    """x.flags of a traced array: what is known of its memory."""

    c_contiguous: bool
    f_contiguous: bool
    owndata: bool
    writeable: bool

    @property
    def contiguous(self) -> bool:
        return self.c_contiguous

    def __getitem__(self, name: Any) -> Any:
        return getattr(self, name.lower()) if isinstance(name, builtins.str) else tuple.__getitem__(self, name)


class DynamicView:
    """How an array aliases its base through a traced index: it is read again, or written through, at each
    use.
    """

    __slots__ = ("read", "store")

    def __init__(self, read: Callable[[Trace, Any], Value], store: Callable[[Trace, Any, Value], None]) -> None:
        self.read = read
        self.store = store


class Array(Operators):
    """A traced array.

    `weak`: a Python scalar in NEP 50's sense. `scalar`: a NumPy scalar (immutable) rather than a 0-d array.
    `strides`: element strides as NumPy would have them, None for C order. `base` and `via` say how it aliases
    another Array. `affine` says how an int scalar came from another one by static ints. `known` holds the
    values where they are static and nothing has been written.
    """

    __array_priority__ = 1000.0
    __slots__ = (
        "_constant", "affine", "base", "dynamic", "key", "location", "owner", "readonly", "root", "scalar",
        "strides_", "type", "value", "via", "weak",
    )  # fmt: skip

    def __init__(
        self,
        trace: Trace,
        value: Value,
        *,
        weak: bool = False,
        strides: tuple[int, ...] | None = None,
        scalar: bool = False,
        constant: np.ndarray | None = None,
        base: Array | None = None,
        via: Any = None,
        readonly: str = "",
        location: Location | None = None,
    ) -> None:
        self.owner = trace
        self.value = value
        self.type: ArrayType = value.type
        self.weak = weak
        self.strides_ = strides
        self.scalar = scalar
        self.base = base
        self.via = via
        self.root: Root = Root() if base is None else base.root
        self.dynamic: bool = isinstance(via, DynamicView) or (base is not None and base.dynamic)
        self.readonly: str = readonly or ("" if base is None else base.readonly)
        self._constant = constant
        self.key: Any = None  # for the view x[key]: the key, so that x[key] += y stores once
        self.affine: tuple[Array, int, int] | None = None  # for an int scalar: origin * scale + offset
        self.location: Location | None = location or user_location()

    # -- what is known statically

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        from nufunc.tracer import np_views

        np_views.set_shape(self, shape)

    @property
    def dtype(self) -> np.dtype:
        return self.type.dtype

    @dtype.setter
    def dtype(self, dtype: Any) -> None:
        raise UnsupportedError("assigning to .dtype of a traced array: use x.view(dtype) or x.astype", user_location())

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    @property
    def size(self) -> int:
        return self.type.size

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.type.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        from nufunc.tracer.layout import c_strides

        strides = c_strides(self.shape) if self.strides_ is None else self.strides_
        return tuple(s * self.itemsize for s in strides)

    @strides.setter
    def strides(self, strides: Any) -> None:
        raise UnsupportedError("assigning to .strides of a traced array: use slices and transpose", user_location())

    @property
    def known(self) -> np.ndarray | None:
        """The values, where they are static in the trace that runs now."""
        if self._constant is None or self.root.version:
            return None
        from nufunc.tracer.trace import current

        return self._constant if self.scalar or self.owner is current() else None

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __repr__(self) -> str:
        made = f", made at {self.location.file}:{self.location.line}" if self.location else ""
        return f"Array({self.type}{made})"

    # -- conversions to concrete values: errors that say what to do

    def _refuse(self, what: str, instead: str) -> NoReturn:
        where = f" (the value was made at {self.location})" if self.location else ""
        raise TraceError(
            f"{what} needs a concrete value, but {self.type} is traced{where}: {instead}. Used at:",
            user_location(),
        )

    def _item(self) -> Any:
        known = self.known
        return known.item() if known is not None and known.size == 1 else None

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                "The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()"
            )
        value = self._item()
        if value is None:
            from nufunc.tracer import staging

            why = staging.ask("truth")
            self._refuse(
                "bool(), and so if, while, and, or, not, assert",
                "use np.where(condition, x, y) to choose between values, nf.cond to branch, nf.while_loop "
                "to loop, "
                f"& | ~ for logic, or pass the value as a static argument{why and f' ({why})'}",
            )
        return bool(value)

    def __int__(self) -> int:
        value = self._item()
        if value is None:
            self._refuse("int()", "use x.astype(np.int64), or pass the value as a static argument (a Python int)")
        return int(value)

    def __float__(self) -> float:
        value = self._item()
        if value is None:
            self._refuse(
                "float()",
                "leave the value an array (x.astype(np.float64)), use nf.numpy instead of math, or store "
                "into an array "
                "made by nf.numpy",
            )
        return float(value)

    def __complex__(self) -> complex:
        value = self._item()
        if value is None:
            self._refuse("complex()", "use x.astype(np.complex128)")
        return complex(value)

    def __index__(self) -> int:
        value = self._item()
        if value is None or self.dtype.kind not in "iub" or isinstance(value, bool):
            if self.dtype.kind not in "iu":
                raise TypeError("only integer scalar arrays can be converted to a scalar index")
            from nufunc.tracer import staging

            why = staging.ask("index")
            self._refuse(
                "an index, a shape, or range()",
                "use nf.fori_loop(lower, upper, body, init) instead of range(n), index traced arrays with "
                "it, or pass "
                f"the value as a static argument (a Python int){why and f' ({why})'}",
            )
        return int(value)

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        self._refuse(
            "numpy.asarray(), np.float64(x), or a function that converts its arguments to ndarrays,",
            "use the functions of nf.numpy (also for a concrete array that is assigned to or indexed), and "
            "x.astype(dtype) to convert",
        )

    def item(self, *args: Any) -> Any:
        """The element as a scalar; a Python scalar where it is static, else a traced (weak) one."""
        if args:
            index = args[0] if len(args) == 1 else args
            return (self.ravel() if isinstance(index, int) else self)[index].item()
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        value = self._item()
        if value is None:
            self._refuse("x.item()", "use x[()] or x.reshape(()) to have a scalar that stays traced")
        return value

    def __format__(self, spec: str) -> str:
        if spec:
            self._refuse("formatting with a specification", "return the value and print it outside")
        return repr(self)

    def tolist(self) -> Any:
        if self.known is not None:
            return self.known.tolist()
        self._refuse("x.tolist()", "keep the array, or use list(x) to have its rows as traced values")

    def tobytes(self, order: str = "C") -> NoReturn:
        self._refuse("x.tobytes()", "return the array and convert it outside")

    __hash__ = None

    def __copy__(self) -> Array:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Array:
        return self.copy()

    def __reduce__(self) -> NoReturn:
        self._refuse("pickling", "return the array and pickle it outside")

    # -- NumPy's protocols

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from nufunc.tracer import dispatch

        return dispatch.array_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        from nufunc.tracer import dispatch

        return dispatch.array_function(func, args, kwargs)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return namespace()

    # -- indexing and iteration

    def __getitem__(self, key: Any) -> Any:
        from nufunc.tracer import np_indexing

        return np_indexing.getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        from nufunc.tracer import np_indexing

        np_indexing.setitem(self, key, value)

    def __iter__(self) -> Iterator[Array]:
        if not self.shape:
            raise TraceError("iteration over a 0-d array", user_location())
        return (self[i] for i in range(self.shape[0]))

    def __contains__(self, item: Any) -> Any:
        return bool(namespace().any(self == item))

    @property
    def flat(self) -> Any:
        from nufunc.tracer import np_indexing

        return np_indexing.Flat(self)

    @flat.setter
    def flat(self, value: Any) -> None:
        self.flat[...] = value

    # -- parts

    @property
    def T(self) -> Array:
        return self.transpose()

    @property
    def mT(self) -> Array:
        return namespace().matrix_transpose(self)

    @property
    def real(self) -> Array:
        return namespace().real(self)

    @real.setter
    def real(self, value: Any) -> None:
        namespace()._assign_part(self, "real", value)

    @property
    def imag(self) -> Array:
        return namespace().imag(self)

    @imag.setter
    def imag(self, value: Any) -> None:
        namespace()._assign_part(self, "imag", value)

    @property
    def flags(self) -> Flags:
        """What NumPy's flags would say; only to be read."""
        from nufunc.tracer.layout import is_f_contiguous

        fortran = is_f_contiguous(self.shape, self.strides_)
        return Flags(self.strides_ is None, fortran, self.base is None, not (self.readonly or self.scalar))

    def view(self, dtype: Any = None, type: Any = None) -> Array:
        """x.view(): another array over the same memory, whose bytes may be numbers of another dtype."""
        from nufunc.tracer import np_bytes

        if dtype is np.ndarray:
            dtype = None
        if type not in (None, np.ndarray):
            if not (isinstance(type, builtins.type) and issubclass(type, np.ndarray)):
                raise ShapeError("Type must be a sub-type of ndarray type", user_location())
            raise UnsupportedError(f"x.view({type.__name__}) of a traced array", user_location())
        return self[...] if dtype is None else np_bytes.as_dtype(self, dtype)

    # -- methods: the function of the same name

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> Array:
        if not shape:
            raise TypeError("reshape() takes exactly 1 argument (0 given)")
        return namespace().reshape(self, shape[0] if len(shape) == 1 else shape, order=order, copy=copy)

    def transpose(self, *axes: Any) -> Array:
        if not axes or axes == (None,):
            return namespace().transpose(self)
        return namespace().transpose(self, axes[0] if len(axes) == 1 and isinstance(axes[0], Sequence) else axes)

    def copy(self, order: str = "C") -> Array:
        return namespace().copy(self, order=order)

    def flatten(self, order: str = "C") -> Array:
        return namespace()._flatten(self, order)

    def fill(self, value: Any) -> None:
        if getattr(value, "ndim", 0):
            raise ValueError("setting an array element with a sequence.")
        self[...] = value

    def round(self, decimals: int = 0, out: Any = None) -> Array:
        return namespace().round(self, decimals, out=out)

    def conj(self) -> Array:
        """The complex conjugate; of a real array the array itself, as in NumPy."""
        return namespace().conjugate(self) if self.dtype.kind == "c" else self

    conjugate = conj

    def sort(self, axis: int = -1, kind: Any = None, order: Any = None) -> None:
        if axis is None:
            raise TypeError("'NoneType' object cannot be interpreted as an integer")
        self[...] = namespace().sort(self, axis, kind, order)

    def dot(self, b: Any, out: Any = None) -> Array:
        return namespace().dot(self, b, out=out)

    def searchsorted(self, v: Any, side: str = "left", sorter: Any = None) -> Array:
        return namespace().searchsorted(self, v, side=side, sorter=sorter)

    def compress(self, condition: Any, axis: int | None = None, out: Any = None) -> Array:
        return namespace().compress(condition, self, axis=axis, out=out)

    def put(self, indices: Any, values: Any, mode: str = "raise") -> None:
        namespace().put(self, indices, values, mode=mode)

    def resize(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError("x.resize() in place; use np.resize(x, shape)", user_location())

    def setflags(self, write: Any = None, align: Any = None, uic: Any = None) -> NoReturn:
        what = "x.setflags() of a traced array; np.broadcast_to(x, x.shape) is read-only"
        raise UnsupportedError(what, user_location())

    def byteswap(self, inplace: bool = False) -> NoReturn:
        raise UnsupportedError("x.byteswap(): all traced arrays are in the machine's byte order", user_location())

    def getfield(self, dtype: Any, offset: int = 0) -> NoReturn:
        raise UnsupportedError("x.getfield() of a traced array; use x.view(dtype)[..., k]", user_location())

    def setfield(self, val: Any, dtype: Any, offset: int = 0) -> NoReturn:
        raise UnsupportedError("x.setfield() of a traced array; use x.view(dtype)[..., k] = value", user_location())

    def partition(self, kth: Any, axis: int = -1, kind: Any = None, order: Any = None) -> None:
        if axis is None:
            raise TypeError("'NoneType' object cannot be interpreted as an integer")
        self[...] = namespace().partition(self, kth, axis, kind or "introselect", order)

    def tofile(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("x.tofile()", "return the array and write it outside")

    def is_integer(self) -> NoReturn:
        self._refuse("x.is_integer()", "use np.floor(x) == x")

    def __divmod__(self, other: Any) -> Any:
        return namespace().divmod(self, other)

    def __rdivmod__(self, other: Any) -> Any:
        return namespace().divmod(other, self)

    def __round__(self, ndigits: int | None = None) -> Array:
        rounded = namespace().round(self, ndigits or 0)
        return rounded.astype(np.int64) if ndigits is None else rounded


def check_dtype(dtype: Any) -> np.dtype:
    """A supported native dtype from anything that NumPy takes for one."""
    from nufunc.ir.types import dtype_from, native

    try:
        return native(dtype_from(dtype))
    except DTypeError as error:
        raise DTypeError(builtins.str(error), user_location()) from None
