"""The function transforms of torch.func, on plain NumPy functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nufunc.ir.errors import ArgumentError, ArgumentTypeError
from nufunc.runtime.batching import Dims, Vmap
from nufunc.runtime.differentiation import Grad, Jvp, Linearize, LinearTranspose, Vjp
from nufunc.runtime.function import Transformed
from nufunc.runtime.jacobian import Jacobian
from nufunc.runtime.transform import Functionalize, Jit, Transform
from nufunc.tracer.usercode import user_location

F = TypeVar("F", bound=Callable[..., Any])


class Configured:
    """A transform with its parameters but no function yet: `nf.grad(argnums=1)`. Calling it on a function applies
    it.
    """

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __call__(self, func: Callable[..., Any]) -> Transformed:
        return Transformed((self.transform,), func)

    def __repr__(self) -> str:
        return f"<nufunc transform {self.transform}>"


def _made(transform: Transform, func: Callable[..., Any] | None) -> Any:
    return Configured(transform) if func is None else Transformed((transform,), func)


def _hashable_dims(dims: Any) -> Any:
    """A dims specification as something hashable."""
    try:
        hash(dims)
    except TypeError:
        return Dims(dims)
    return dims


def vmap(
    func: Callable[..., Any] | None = None,
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Any:
    """Map a function over an axis of its arguments.

    Parameters
    ----------
    func : the function of one lane. Keyword arguments are passed to every lane as they are.
    in_dims : int, None or a nested tuple of these that matches the positional arguments from the top, and may end above
        the leaves: which axis of each array the lanes run over; None for an argument that all lanes share.
    out_dims : int, None or a nested collection that matches the outputs: where the lanes' axis stands in each output.
        None returns an output that does not depend on the lane as it is; with an int, such an output is repeated.
    randomness : what a draw of a np.random.Generator inside the function does: "error" raises `nf.RandomnessError`,
        "same" shares one draw between the lanes, "different" gives each lane its own. `nf.random` asks its keys alone.
    chunk_size : how many lanes to compute at once; None for all. Bounds the memory.

    Returns
    -------
    The mapped function. As a decorator: `@nf.vmap` or `@nf.vmap(in_dims=(None, 0))`.

    Raises
    ------
    ArgumentError (a ValueError)
        in_dims or out_dims that do not fit the arguments or outputs, unequal sizes, nothing to map over.
    BoundsError (an IndexError)
        an out_dim that the output does not have.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.vmap(np.dot, in_dims=(0, None))(np.array([[1., 2.], [3., 4.]]), np.array([10., 1.]))
    array([12., 34.])
    """
    if randomness not in ("error", "same", "different"):
        raise ArgumentError(
            f"vmap: Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness!r}",
            user_location(),
        )
    _check_chunk_size("vmap", chunk_size)
    return _made(Vmap(_hashable_dims(in_dims), _hashable_dims(out_dims), randomness, chunk_size), func)


def _check_chunk_size(name: str, chunk_size: Any) -> None:
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size <= 0):
        raise ArgumentError(f"{name}: chunk_size should be None or greater than 0, got {chunk_size!r}", user_location())


def _argnums(name: str, argnums: Any) -> Any:
    """argnums, checked as far as that is possible without arguments."""
    if isinstance(argnums, int | tuple) and not isinstance(argnums, bool):
        if argnums == ():
            raise ArgumentError(f"{name}: argnums must be non-empty", user_location())
        return argnums
    raise ArgumentTypeError(
        f"{name}: argnums must be int or Tuple[int, ...], got {type(argnums).__name__}", user_location()
    )


def grad(
    func: Callable[..., Any] | None = None,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    argnames: str | tuple[str, ...] | None = None,
    holomorphic: bool = False,
) -> Any:
    """The gradient of a function with one scalar output.

    Parameters
    ----------
    func : returns a float array of shape (), or with has_aux a tuple (that, anything).
    argnums : which positional arguments to differentiate: arrays of float or complex dtype, or trees of these.
    Negative ones
        count from the end.
    has_aux : whether func returns (output, aux); aux is handed back beside the gradient.
    argnames : names of the arguments to differentiate, instead of argnums; they may be passed by keyword.
    holomorphic : allow a complex output of a holomorphic function.

    Returns
    -------
    A function with the arguments of func that returns the gradient, shaped as the argument (a tuple of gradients if
    argnums is a tuple), or (gradient, aux). For a real function of a complex argument z = x + iy the gradient is
    df/dx + i df/dy.

    Raises
    ------
    DTypeError (a TypeError)
        an integer or bool argument or output.
    ShapeError (a ValueError)
        an output that is no scalar.
    ArgumentError (a ValueError)
        argnums out of range, repeated or empty.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.grad(lambda x: np.sum(x ** 3))(np.array([1., 2.]))
    array([ 3., 12.])
    """
    return _made(Grad(_argnums("grad", argnums), bool(has_aux), _names(argnames), bool(holomorphic)), func)


def _names(argnames: Any) -> Any:
    return tuple(argnames) if isinstance(argnames, list) else argnames


def grad_and_value(
    func: Callable[..., Any] | None = None,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    argnames: str | tuple[str, ...] | None = None,
    holomorphic: bool = False,
) -> Any:
    """Like `grad`, but returns (gradient, value), or (gradient, (value, aux)) with has_aux.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.grad_and_value(lambda x: np.sum(x * x))(np.array([1., 2.]))
    (array([2., 4.]), np.float64(5.0))
    """
    transform = Grad(_argnums("grad_and_value", argnums), bool(has_aux), _names(argnames), bool(holomorphic), "after")
    return _made(transform, func)


def value_and_grad(
    func: Callable[..., Any] | None = None,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    argnames: str | tuple[str, ...] | None = None,
    holomorphic: bool = False,
) -> Any:
    """Like `grad`, but returns (value, gradient), or ((value, aux), gradient) with has_aux.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.value_and_grad(lambda x: np.sum(x * x))(np.array([1., 2.]))
    (np.float64(5.0), array([2., 4.]))
    """
    transform = Grad(_argnums("value_and_grad", argnums), bool(has_aux), _names(argnames), bool(holomorphic), "before")
    return _made(transform, func)


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """Run a function and give the function that pulls cotangents back through it.

    Parameters
    ----------
    func : takes the primals; returns a tree of float or complex arrays, or with has_aux a tuple (that, aux).
    primals : arrays or trees of arrays, of float or complex dtype.

    Returns
    -------
    (output, vjp_fn), or (output, vjp_fn, aux). `vjp_fn(cotangents)` takes a tree like the output and returns a tuple
    with a cotangent for each primal. It may be called many times, and holds its own copies of what it needs.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> y, vjp_fn = nf.vjp(np.sin, np.array([0., 1.]))
    >>> vjp_fn(np.array([1., 1.]))[0].round(3)
    array([1.  , 0.54])
    """
    return Transformed((Vjp(bool(has_aux)),), func)(*primals)


def jvp(func: Callable[..., Any], primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False) -> Any:
    """Run a function and push tangents forward through it.

    Parameters
    ----------
    func : takes *primals; returns a tree of float or complex arrays, or with has_aux a tuple (that, aux).
    primals, tangents : tuples of one structure, with equal shapes and dtypes.
    strict : raise if an output does not depend on any input.

    Returns
    -------
    (output, tangent), or (output, tangent, aux).

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.jvp(lambda x: x ** 2, (np.array([1., 2.]),), (np.array([1., 10.]),))
    (array([1., 4.]), array([ 2., 40.]))
    """
    return Transformed((Jvp(bool(has_aux), bool(strict)),), func)(primals, tangents)


def linearize(func: Callable[..., Any], *primals: Any) -> Any:
    """Run a function once and give its derivative at that point as a linear function.

    Returns
    -------
    (output, jvp_fn); `jvp_fn(*tangents)` takes trees like the primals and returns the tangent of the output.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> y, jvp_fn = nf.linearize(np.exp, np.array([0., 1.]))
    >>> jvp_fn(np.array([1., 0.]))
    array([1., 0.])
    """
    return Transformed((Linearize(),), func)(*primals)


def linear_transpose(func: Callable[..., Any], *primals: Any) -> Any:
    """The transpose of a linear function: takes a cotangent like its output, returns a tuple of cotangents like the
    primals.

    Only the shapes and dtypes of the primals matter.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.linear_transpose(lambda x: np.array([[1., 2.], [3., 4.]]) @ x, np.zeros(2))(np.array([1., 10.]))
    (array([31., 42.]),)
    """
    return Transformed((LinearTranspose(),), func)(*primals)


def jacrev(
    func: Callable[..., Any] | None = None,
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    holomorphic: bool = False,
) -> Any:
    """The Jacobian by reverse mode: cheapest with fewer outputs than inputs.

    Parameters
    ----------
    func : returns a tree of float arrays, or with has_aux a tuple (that, aux).
    argnums : which arguments to differentiate, as for `grad`.
    chunk_size : how many rows to compute at once; None for all.
    holomorphic : allow complex arguments and outputs of a holomorphic function.

    Returns
    -------
    A function that returns the tree of func's output with, at each leaf, the tree of the argument; the leaves have
    shape output.shape + argument.shape. With a tuple argnums, a tuple stands at each leaf. With has_aux: (jacobian,
    aux).

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.jacrev(lambda x: x ** 2)(np.array([1., 2.]))
    array([[2., 0.],
           [0., 4.]])
    """
    _check_chunk_size("jacrev", chunk_size)
    return _made(Jacobian("rev", _argnums("jacrev", argnums), bool(has_aux), chunk_size, bool(holomorphic)), func)


def jacfwd(
    func: Callable[..., Any] | None = None,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
    chunk_size: int | None = None,
    holomorphic: bool = False,
) -> Any:
    """The Jacobian by forward mode: cheapest with fewer inputs than outputs. Parameters and result as for `jacrev`.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.jacfwd(lambda x: np.array([x[0] * x[1], x[0]]))(np.array([2., 5.]))
    array([[5., 2.],
           [1., 0.]])
    """
    if randomness not in ("error", "same", "different"):
        raise ArgumentError(
            f"jacfwd: Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness!r}",
            user_location(),
        )
    _check_chunk_size("jacfwd", chunk_size)
    checked = _argnums("jacfwd", argnums)
    return _made(Jacobian("fwd", checked, bool(has_aux), chunk_size, bool(holomorphic), randomness), func)


def hessian(func: Callable[..., Any] | None = None, argnums: int | tuple[int, ...] = 0) -> Any:
    """The Hessian, as jacfwd(jacrev(func)); for a tuple argnums, a tuple of tuples.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.hessian(lambda x: x[0] ** 2 * x[1])(np.array([1., 3.]))
    array([[6., 2.],
           [2., 0.]])
    """
    checked = _argnums("hessian", argnums)
    chain = (Jacobian("fwd", checked, randomness="error"), Jacobian("rev", checked))
    return _Chain(chain) if func is None else Transformed(chain, func)


def hvp(func: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    """(value, Hessian times tangents) of a scalar function; the product is shaped as the primals.

    Forward over reverse: about the cost of two gradients.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> nf.hvp(lambda x: np.sum(x ** 3), (np.array([1., 2.]),), (np.array([1., 0.]),))[1]
    (array([6., 0.]),)
    """
    count = len(primals) if isinstance(primals, tuple) else 1
    chain = (Jvp(has_aux=True), Grad(tuple(range(count)), False, None, False, "after"))
    _, product, value = Transformed(chain, func)(primals, tangents)
    return value, product


def functionalize(func: Callable[..., Any] | None = None, *, remove: str = "mutations") -> Any:
    """The function with all views and in-place writes removed; the values are the same.

    What the function writes to its arguments is written back to them at the end.

    Parameters
    ----------
    remove : "mutations" or "mutations_and_views". Pure graphs have no views either, so both give the same result.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> def f(x):
    ...     y = x.copy()
    ...     y[0] = 10.
    ...     return y.sum()
    >>> nf.functionalize(f)(np.ones(3))
    np.float64(12.0)
    """
    if remove not in ("mutations", "mutations_and_views"):
        raise ArgumentError(
            f"functionalize: `remove` must be 'mutations' or 'mutations_and_views', got {remove!r}", user_location()
        )
    return _made(Functionalize(remove), func)


def jit(
    func: Callable[..., Any] | None = None,
    *,
    static_argnums: int | tuple[int, ...] = (),
    static_argnames: str | tuple[str, ...] = (),
    donate_argnums: int | tuple[int, ...] = (),
    target: str | None = None,
    max_bytes: int | None = None,
    fastmath: bool = False,
    boundscheck: bool = True,
) -> Any:
    """Compile a function for each signature of its arguments.

    Parameters
    ----------
    static_argnums, static_argnames : arguments that are constants of the compilation (hashable, compared by equality).
    donate_argnums : arguments whose arrays the call consumes: results of the same shape and dtype take their memory, so
        that nothing is allocated and `params = step(params, grads)` works in place. What such a call returns may be
        the donated array itself; what the caller's array holds afterwards is undefined. A donated array that is
        read-only or shares memory with another argument is refused; one that is not C-contiguous is only read.
    target : "cuda" runs calls with arrays of the host on the device of the context around (`with nf.device(...)`), else
        on the first one, and gives NumPy arrays back; "cpu" refuses arrays of devices; by default calls run where their
        arrays are, or on the device of the context around.
    max_bytes : how many bytes temporaries may take, as `f.lower(...).cost().arena_bytes` tells them. Where they take
        more, each vmap, jacrev, jacfwd and hessian of the chain below (not those called inside the function) that was
        given no chunk_size gets one: the largest power of two with which they fit. If none does, the first call raises
        ArgumentError and names the lines that need most.
    fastmath : let sums and products be reordered and contracted to fused multiply-adds, lose the sign of zeros, and
        turn quotients by one divisor into products. NaN and infinities keep their meaning; elementary functions stay as
        they are. Arithmetic that relies on rounding, such as a compensated sum, loses its point. It counts for what is
        compiled as one program with this function: not where the function is called inside another traced one.
    boundscheck : False leaves out the checks of indices that are known only when the function runs: one that is out of
        bounds then counts as the nearest that is not, in place of an IndexError.

    Beside being called, a compiled function, as every transformed one, has

    f(*args, out=arrays) : write the results into these arrays (a tree like the result, of the same shapes and dtypes)
        and return them. They may overlap the arguments. A function with an `out` parameter of its own keeps it.
    f.bind(*args) : a callable without arguments that runs on these very arrays again and again.
    f.lower(*args) : the program for arguments like these, with `as_text(stage)`, `cost()` and `compile()`.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> @nf.jit(static_argnums=1)
    ... def power(x, n):
    ...     return x ** n
    >>> power(np.arange(3.), 2)
    array([0., 1., 4.])
    """
    _check_target("jit", target)
    static, donated = _all_of("static_argnums", static_argnums, int), _all_of("donate_argnums", donate_argnums, int)
    if set(static) & set(donated):
        raise ArgumentError("jit: an argument cannot be in static_argnums and in donate_argnums", user_location())
    if not isinstance(fastmath, bool):
        raise ArgumentTypeError(f"jit: fastmath must be True or False, got {fastmath!r}", user_location())
    if not isinstance(boundscheck, bool):
        raise ArgumentTypeError(f"jit: boundscheck must be True or False, got {boundscheck!r}", user_location())
    if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 0):
        raise ArgumentError(f"jit: max_bytes should be None or a number of bytes, got {max_bytes!r}", user_location())
    named = _all_of("static_argnames", static_argnames, str)
    return _made(Jit(static, named, donated, target, max_bytes, fastmath, boundscheck), func)


def _check_target(name: str, target: Any) -> None:
    if target not in (None, "cpu", "cuda"):
        raise ArgumentError(f"{name}: target must be 'cpu', 'cuda' or None, got {target!r}", user_location())


def _all_of(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    """One item or a collection of items of a type, as a tuple."""
    items = (value,) if isinstance(value, kind) else tuple(value) if isinstance(value, tuple | list) else (None,)
    if not all(isinstance(item, kind) and not isinstance(item, bool) for item in items):
        raise ArgumentTypeError(
            f"jit: {name} must be of type {kind.__name__} or a tuple of these, got {value!r}", user_location()
        )
    return items


class _Chain(Configured):
    """Several configured transforms, outermost first."""

    def __init__(self, chain: tuple[Transform, ...]) -> None:
        self.chain = chain

    def __call__(self, func: Callable[..., Any]) -> Transformed:
        return Transformed(self.chain, func)

    def __repr__(self) -> str:
        return f"<nufunc transforms {self.chain}>"


def transform(*transforms: Any, target: str | None = None) -> Any:
    """Several transforms at once, outermost first, as one decorator.

    Parameters
    ----------
    transforms : transforms of this module, bare (`nf.grad`) or configured (`nf.vmap(in_dims=(None, 0))`).
    target : as for `jit`.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> @nf.transform(nf.vmap(in_dims=(None, 0)), nf.grad)
    ... def per_sample(w, x):
    ...     return np.sum(w * x ** 2)
    >>> per_sample(np.ones(2), np.array([[1., 2.], [3., 4.]]))
    array([[ 1.,  4.],
           [ 9., 16.]])
    """
    _check_target("transform", target)
    chain: list[Transform] = [Jit(target=target)]
    for item in transforms:
        made = item if isinstance(item, Configured) else item(None) if callable(item) else None
        if not isinstance(made, Configured):
            raise ArgumentTypeError(
                f"transform takes transforms such as nf.grad or nf.vmap(in_dims=0), got {item!r}", user_location()
            )
        chain += made.chain if isinstance(made, _Chain) else (made.transform,)
    return _Chain(tuple(chain))
