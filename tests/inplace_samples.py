"""Rows of in-place NumPy: every form of view and of write, as functions that change their arguments and local buffers.

A row is a function of (x: f64[3,4], y: f64[4], z: c128[3], n: i64[4]) with what it returns; tests run it in NumPy and
under every transform, alone and inside the bodies of control flow, and compare results and arguments afterwards.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

ROWS: dict[str, Callable[..., Any]] = {}
# Single precision, and numbers through the bytes of integers: differences say nothing there.
NOT_SMOOTH = {
    "augmented_casts", "view_as_float", "view_as_bytes", "view_as_halves", "view_as_wider", "view_as_single",
    "ufunc_nextafter", "ufunc_spacing", "ufunc_floor_divide", "ufunc_where_keeps_digits",
}  # fmt: skip


def row(f: Callable[..., Any]) -> Callable[..., Any]:
    assert f.__name__ not in ROWS
    ROWS[f.__name__] = f
    return f


def arguments(seed: int = 0, lanes: int | None = None) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    lead = () if lanes is None else (lanes,)
    x = rng.normal(size=(*lead, 3, 4))
    y = rng.normal(size=(*lead, 4))
    z = rng.normal(size=(*lead, 3)) + 1j * rng.normal(size=(*lead, 3))
    n = np.argsort(rng.normal(size=(*lead, 4)), axis=-1)
    return [x, y, z, n]


def text(name: str, code: str, result: str = "x, y") -> None:
    """A row from one line of code."""
    space: dict[str, Any] = {"np": np}
    exec(compile(f"def {name}(x, y, z, n):\n    {code}\n    return {result}\n", f"<row {name}>", "exec"), space)
    row(space[name])


# -- views that are written through, or read after their base was written

_VIEWS = {
    "slice": "x[1:, ::2]",
    "slice_negative_step": "x[::-1, 3:0:-2]",
    "slice_of_slice": "x[:, 1:][1:, ::2]",
    "integer": "x[1]",
    "negative_integer": "x[-1]",
    "ellipsis": "x[..., 1]",
    "newaxis": "x[:, None, 1:]",
    "whole": "x[...]",
    "empty_slice": "x[2:2]",
    "numpy_int": "x[np.int64(1)]",
    "transpose": "x.T",
    "transposed_row": "x.T[1]",
    "transpose_axes": "x.transpose(1, 0)",
    "np_transpose": "np.transpose(x)",
    "swapaxes": "x.swapaxes(0, 1)",
    "moveaxis": "np.moveaxis(x[None], 0, -1)",
    "rollaxis": "np.rollaxis(x, 1)",
    "permute_dims": "np.permute_dims(x, (1, 0))",
    "matrix_transpose": "x.mT",
    "np_matrix_transpose": "np.matrix_transpose(x)",
    "reshape": "x.reshape(4, 3)",
    "reshape_minus_one": "x.reshape(2, -1)",
    "reshape_flat": "np.reshape(x, -1)",
    "reshape_f": "x.T.reshape(4, 3, order='F')",
    "ravel": "x.ravel()",
    "ravel_row": "x[1].ravel()",
    "np_ravel": "np.ravel(x)",
    "reshape_of_slice": "x[:, :2].reshape(3, 2, 1)",
    "reshape_copies": "x.T.reshape(-1)",
    "ravel_copies": "x.T.ravel()",
    "ravel_f": "x.ravel(order='F')",
    "ravel_f_of_transpose": "x.T.ravel(order='F')",
    "ravel_k": "x.T.ravel(order='K')",
    "ravel_a": "x.T.ravel(order='A')",
    "flatten": "x.flatten()",
    "reshape_a": "x.T.reshape(-1, order='A')",
    "squeeze": "x[:, None].squeeze()",
    "squeeze_axis": "np.squeeze(x[:, :1], axis=1)",
    "expand_dims": "np.expand_dims(x, 1)",
    "expand_two": "np.expand_dims(x, (0, 3))",
    "atleast_1d": "np.atleast_1d(x)",
    "atleast_3d": "np.atleast_3d(x)",
    "atleast_2d_row": "np.atleast_2d(x[0])",
    "flip": "np.flip(x, 1)",
    "flipud": "np.flipud(x)",
    "fliplr": "np.fliplr(x)",
    "rot90": "np.rot90(x)",
    "rot90_three": "np.rot90(x, 3)",
    "rot90_none": "np.rot90(x, 0)",
    "split": "np.split(x, 2, axis=1)[1]",
    "array_split": "np.array_split(x, 2)[0]",
    "hsplit": "np.hsplit(x, 2)[0]",
    "vsplit": "np.vsplit(x, 3)[2]",
    "dsplit": "np.dsplit(x[None], 2)[1]",
    "unstack": "np.unstack(x, axis=1)[2]",
    "split_at": "np.split(x, [1, 3], axis=1)[1]",
    "real_view": "x.real",
    "np_real": "np.real(x)",
    "view": "x.view()",
    "view_same": "x.view(np.float64)",
    "asarray": "np.asarray(x)",
    "asanyarray": "np.asanyarray(x)",
    "array_copy_none": "np.array(x, copy=None)",
    "array_copies": "np.array(x)",
    "ascontiguous": "np.ascontiguousarray(x)",
    "ascontiguous_copies": "np.ascontiguousarray(x.T)",
    "asfortran": "np.asfortranarray(x.T)",
    "copy": "x.copy()",
    "astype_copies": "x.astype(float)",
    "astype_view": "x.astype(float, copy=False)",
    "conj_is_itself": "x.conj()",
    "broadcast_arrays_same": "np.broadcast_arrays(x, y)[0]",
    "iterate": "list(x)[1]",
    "unpack": "[r for r in x][-1]",
    "einsum_transpose": "np.einsum('ij->ji', x)",
    "diag_by_einsum": "np.einsum('ii->i', x[:, :3])",
    "flat_reshape": "x.reshape(-1)[1::2]",
    "lib_slices": "x[tuple([slice(1, None), slice(None)])]",
    "bool_newaxis": "x[None, ..., None]",
    "nan_to_num_in_place": "np.nan_to_num(x, copy=False)",
    "require": "np.require(x)",
    "positive_copies": "+x",
}
for _name, _view in _VIEWS.items():
    _whole = f"v = {_view}; v[...] = v * 2 + 1; x[1:, 1:] += 3; w = v * 1.0"
    text(f"view_{_name}", _whole, "x, w, v")

# Read-only views: what is read after the base was written.
for _name, _view in {
    "diagonal": "np.diagonal(x)",
    "diagonal_method": "x.diagonal(1)",
    "diagonal_below": "x.diagonal(-1)",
    "diag": "np.diag(x)",
    "diagonal_axes": "np.diagonal(x[None], 1, 2, 1)",
    "diagonal_of_slice": "x[1:, ::2].diagonal()",
    "diagonal_of_transpose": "x.T.diagonal()",
    "linalg_diagonal": "np.linalg.diagonal(x)",
    "broadcast": "np.broadcast_to(x, (2, 3, 4))",
    "broadcast_row": "np.broadcast_to(x[0], (2, 4))",
    "window": "np.lib.stride_tricks.sliding_window_view(x, 2, axis=1)",
    "diagonal_far": "x.diagonal(9)",
}.items():
    text(f"read_{_name}", f"v = {_view}; x[:, 1:] += 3; x *= 2; w = v * 1.0", "x, w, v")

text("view_real_of_complex", "v = z.real; v[1:] = y[:2]; z.imag[0] = 3; v *= 2; w = v + z.imag", "z, w, v")
text("view_imag_of_complex", "v = np.imag(z); v += 1; z *= 2; z.imag[::2] -= 3", "z, v")
text("set_real", "z.real = y[:3]; z.imag = 2")
text("set_real_view", "w = z[1:]; w.real = y[:2]; w.real += 1; z.imag[:] = 2", "z, w")
text("real_of_slice", "v = z[::-1].real[1:]; z += 1j + 1; v[0] = y[0]", "z, v")
text(
    "view_as_int",
    "v = x.view(np.int64); v[0, 0] = 5; v[1] = n; v[2, [0, 1]] = 3; "
    "w = v[0] * 0 + v[2, :2].sum()",
    "x, w",
)
text("view_as_unsigned", "v = n.view(np.uint64); v[1:] += np.uint64(1); n[0] = 9", "n, v")
text("view_as_float", "v = n.view(np.float64); v[1] = y[0]; w = v.view(np.int64); w[0] = 7", "n[0], v[1] != 0, w[0]")
# Bytes as numbers of another size: complex ones are two floats, integers are put together or taken apart.
text("view_complex_as_floats", "v = z.view(float); v[1] = y[0]; v[2:] *= 2; z[1:] += 1j; w = v * 1.0", "z, v, w")
text("view_floats_as_complex", "v = x.view(complex); v[0] *= 1j; x[1] += y; v[1:, 1] = 3 - 2j", "x, v")
text("view_of_view_as_complex", "v = x[1:].view(complex)[::-1, 1]; v *= 2j; x *= 2; v.real[0] = y[1]", "x, v")
text("view_complex_of_buffer", "v = np.zeros((2, 4)); w = v.view(complex); w[0] = z[:2]; v[1, ::2] = y[:2]", "v, w")
text(
    "view_as_single",
    "v = z.astype(np.complex64).view(np.float32); v[1] = y[0]; w = v.view(np.complex64).astype(complex)",
    "v.astype(float), w",
)
text("view_as_bytes", "v = x.view(np.uint8); v[0, 7] ^= 128; v[1:, 7::8] = 64; x[2, 0] = y[0]; w = v[2] * 1", "x, w")
text("view_as_halves", "v = n.view(np.int32); v[::2] += 3; n[0] = -1; w = v[::-1] * 1; v[1] = 0", "n, v, w")
text("view_as_wider", "v = n.astype(np.uint16); w = v.view(np.uint64); v[1] = 7; w += np.uint64(1 << 32)", "v, w")
text("view_bool_as_int", "m = y > 0; v = m.view(np.int8); v[0] = 1; m[1:3] = v[:2] == 0; w = v * 1; y += m", "y, m, w")
text("view_int_as_bool", "v = np.array([1, 0, 1], np.uint8).view(bool); v[1] = y[0] > -9; y[:3] += v", "y, v")
text("set_shape", "v = np.zeros(4); w = v; v.shape = (2, 2); v[0] = y[:2]; w *= 2; u = v[1:]; u += y[2:]", "v, w, u")
text("set_shape_of_view", "v = x[1:]; v.shape = (4, 2); v[1:3] += y[:2]; x *= 2; v.shape = -1; v[0] = 9", "x, v")

text("flat_copy", "f = x.flat; a = f.copy(); x *= 2; b = next(f); c = f.coords[1] * y[0]; a[0] = 7", "a, b, c, f.base")
text("flat_as_array", "a = np.array(x.flat); b = np.sum(x.flat) + np.asarray(x[1].flat); x += 1; a[1] = 3", "x, a, b")
text("flat_iterate", "for i, v in enumerate(x.flat): x.flat[i] = v * 2 + i; a = [v for v in y.flat]", "x")
text("flat_index_arrays", "x.flat[n] = y; x.flat[n[0]] += 3; x.flat[-1] = 1; x.flat[2:-1:3] *= 2", "x")
text("flat_traced_mask", "x.flat[x.reshape(-1) > 0.5] = 3; y += x.flat[x.reshape(-1) < 0].sum()")
text("flat_read", "v = x.flat; x[0, 1] = 5; a = v[1]; b = v[2:9:3]", "a, b, x")
text("flat_write", "x.flat[3] = y[0]; x.flat[5:9] = y; x.flat[[0, 2]] = 7; x.T.flat[1] = 9")
text("flat_assign", "x.flat = y; w = list(x.flat)[3]", "x, w")
text("flat_increment", "x.flat[::5] += 2; x.flat[1] *= 3")
text("flat_whole", "x.flat[...] = 2.0; x.T.flat[::2] = y[:2].repeat(3)")
text("flat_mask", "x.flat[np.arange(12) % 3 == 0] = 5")
text("flat_of_view", "x[:, 1:].flat[2:4] = y[:2]; x[::-1].flat[0] += 1")

# -- overlaps

text("overlap_forward", "x[:, 1:] = x[:, :-1]")
text("overlap_backward", "x[:, :-1] = x[:, 1:]")
text("overlap_transpose", "x[:, :3] += x[:, :3].T")
text("overlap_reverse", "y[:] = y[::-1]")
text("overlap_increment", "y[1:] += y[:-1]")
text("overlap_out", "np.add(y[1:], y[:-1], out=y[1:]); np.multiply(y[::-1], 2, out=y)")
text(
    "overlap_slices",
    "a = x[:, :3]; b = x[:, 1:]; a[...] = b * 2; b -= a; "
    "a[0], b[0] = b[1].copy(), a[2].copy()",
    "x, a, b",
)
text("overlap_copyto", "np.copyto(y[1:], y[:-1])")
text("overlap_flat", "x.ravel()[1:] = x.ravel()[:-1]")
text("overlap_swap", "x[0], x[1] = x[1], x[0]")
text("overlap_fancy", "y[n] = y")
text("overlap_fancy_both", "y[n[:3]] = y[n[1:]]; x[:, n] = x")
text("overlap_matmul", "np.matmul(x[:, :3], x[:, :3], out=x[:, :3])")
text("overlap_cumsum", "np.cumsum(y[::-1], out=y)")

# -- setitem in every form of index

for _name, _code in {
    "integers": "x[1, 2] = y[0]; x[-1, -1] += 2",
    "integer_row": "x[0] = y",
    "slice": "x[1:, ::2] = y[:2]",
    "negative_step": "x[::-2, ::-1] = y",
    "ellipsis": "x[..., 0] = y[:3]; x[...] += 1",
    "newaxis": "x[:, None] = y; x[None] *= 2",
    "list": "x[[0, 2]] = y; x[[2, 0]] += 1",
    "index_array": "x[:, n] = y * 2; y[n[:2]] -= 5",
    "duplicates": "y[[0, 0, 1]] = np.array([1.0, 2, 3])",
    "duplicates_increment": "y[[0, 0, 1]] += 1",
    "two_arrays": "x[[0, 2], [1, 3]] = y[:2]; x[[0, 1], n[:2]] += 1",
    "array_and_slice": "x[[0, 2], 1:] = y[1:]; x[1:, n[:2]] = 3",
    "array_and_integer": "x[1, [0, 3]] = y[:2]; x[[0, 2], 1] *= 2",
    "separated_arrays": (
        "x[None, [0, 1], :, None][0] += 1; v = np.zeros((2, 3, 2)); v[[0, 1], :, [1, 0]] = y[:3]; "
        "x[:2] += v[:, :1, 0]"
    ),
    "ix": "x[np.ix_([0, 2], [1, 3])] = y[:2]; x[np.ix_([0], [2, 3])] += 1",
    "matrix_of_indices": "y[np.array([[0, 1], [2, 3]])] = x[:2, :2]",
    "mask_static": "x[np.arange(12).reshape(3, 4) % 2 == 0] = 1.5; y[np.array([True, False, True, False])] = x[0, :2]",
    "mask": "x[x > 0] = -1; y[y < 0] += 2",
    "mask_row": "x[x[:, 0] > 0] = y; x[:, y > 0] = 3",
    "mask_values": "x[x > 0] = x[x > 0] * 2",
    "mask_increment": "x[x > 0] *= 3; x[(x < 1) & (x > -1)] -= 1",
    "mask_itself": "x[x < 0] = -x[x < 0]",
    "mask_and_integer": "x[1, y > 0] = 7; x[y[:3] > 0, 1] = 4",
    "mask_and_slice": "x[x[:, 1] > 0, 1:3] = 2; x[1:, y > 0] += 1",
    "mask_other": "x[y[:3] > 0] = x[y[:3] > 0][:, ::-1]",
    "mask_all": "y[y == y] = x[0]",
    "mask_vector": "y[y > np.sort(y)[1]] = np.array([5.0, 6.0])",
    "mask_matrix_vector": "x[x > np.sort(x.ravel())[8]] = y[:3]",
    "mask_rows_vector": "x[y[:3] > np.sort(y[:3])[0]] = x[:2, ::-1] * 2",
    "true": "y[True] = 2 * y; x[False] = 7",
    "scalar_bool": "y[np.bool_(True)] += 1",
    "traced_bool": "y[y[0] > -9] = 1; y[y[0] > 9] = 2",
    "traced_index": "y[n[0]] = 5; x[n[0] % 3, n[1]] += 2; x[n[1] % 3] = y",
    "traced_index_view": "v = x[n[0] % 3]; v[1:] = 0; x += 1; v *= 2",
    "traced_window": "i = n[0] % 2; y[i : i + 2] = y[i + 1 : i + 3]; x[i : i + 2, ::2] += 1",
    "zero_d_index": "y[np.array(2)] = 9; x[np.array(1)] += y",
    "broadcast_value": "x[...] = y; x[:] = 2; x[:, 1:] = x[:, :1]",
    "cast": "n[...] = 2.7; n[1:] = y[1:] * 10",
    "list_value": "y[:2] = [1, y[3]]; x[0] = [1, 2, 3, 4]",
    "leading_ones": "x[1] = y[None, None]; y[:] = x[:1]",
    "zero_d_buffer": "v = np.array(1.5); v[...] = y[0]; v[()] += 2; y += v",
    "empty_index": "y[[]] = 3; y[np.zeros(0, int)] += 1",
    "unsigned_index": "y[np.array([1, 2], np.uint8)] = 4; y[n.astype(np.uint16)[:2]] = 3",
    "empty_tuple": "x[()] = y; x[()] += 1",
    "negative_index_array": "y[np.array([-1, -2])] = 4; y[-1 - n[:2]] += 3",
    "delayed": "i = [1, 2]; y[i] = x[0, i] * 2",
    "int_array_rows": "x[n[:2] % 3] = y; x[np.array([[0], [1]]), [1, 2]] = 8",
    "whole_fancy": "x[np.array([0, 1, 2])][:] = 5",
}.items():
    text(f"setitem_{_name}", _code, "x, y, n")

# -- augmented assignment

for _name, _operator in {
    "add": "+=",
    "sub": "-=",
    "mul": "*=",
    "div": "/=",
    "pow": "**=",
    "mod": "%=",
    "floor": "//=",
}.items():
    _code = f"x {_operator} 2; v = x[:, ::2]; v {_operator} 3.0; y[1:] {_operator} 1.5 + y[:-1] ** 2"
    text(f"augmented_{_name}", _code, "x, y, v")
text("augmented_matmul", "a = x[:, :3].copy(); a @= a; x[:, :3] = a")
text(
    "augmented_bits",
    "n |= 8; n &= 13; n ^= 3; n <<= 2; n >>= 1; n[1:] += n[:-1]; n //= 2; n %= 5; n **= 2; "
    "n *= 3; n -= 1",
    "n, y",
)
text("augmented_bool", "m = y > 0; m &= x[0] > 0; m |= y < -1; m ^= True; y += m", "m, y")
text("augmented_of_item", "x[1, 2] += 1; x[1][2] -= y[0]; x.T[0] *= 2")
text("augmented_scalar_rebinds", "a = y[0]; b = a; a += 1; y[1] = a; y[2] = b")
text("augmented_loop", "for r in x: r += y; r[0] = 0.0")
text("augmented_casts", "a = y.astype(np.float32); a += y; a *= 2; y += a", "a, y")
text("augmented_complex", "z *= 1j; z += y[:3]; z[1:] **= 2", "z, y")

# -- out= and where=

for _name, _code in {
    "binary": "np.add(x, y, out=x); np.multiply(x[0], 2, out=y)",
    "unary": "np.sin(x, out=x); np.negative(y, y)",
    "positional": "np.subtract(x, y, x)",
    "tuple": "np.exp(y, out=(y,))",
    "to_view": "np.add(y[:2], 1, out=x[1, 1:3]); np.sqrt(np.abs(y), out=x.T[:, 1])",
    "where": "np.add(x, y, out=x, where=x > 0); np.sin(y, out=y, where=np.array([True, False, True, False]))",
    "where_broadcast": "np.multiply(x, 3, out=x, where=y > 0); np.negative(x, out=x, where=x[:, :1] > 0)",
    "where_alias": "np.add(y[1:], y[:-1], out=y[1:], where=y[:-1] > 0)",
    "two": "a, b = np.zeros(4), np.zeros(4); np.modf(y * 3, out=(a, b)); y += a; x += b",
    "divmod": "a = np.empty_like(y); np.divmod(y, 0.3, out=(a, None)); y += a",
    "broadcast_out": "np.add(y, 1, out=x)",
    "returned": "r = np.add(x, 1, out=x); r *= 2; x -= 1",
    "cast": "np.add(n, 1, out=y); np.multiply(y, 2, out=z[:0])if False else None",
    "casting": "np.add(y, 0.5, out=n, casting='unsafe')",
    "compare": "m = np.zeros(4, bool); np.greater(y, 0, out=m); y += m",
    "comparison_to_float": "np.less(y, 0, out=y)",
    "sum": "np.sum(x, axis=0, out=y); x.sum(axis=1, out=x[:, 0])",
    "mean": "np.mean(x, axis=0, out=y); np.var(x, axis=1, out=x[:, 1]); np.std(x, 0, out=y)",
    "max": "np.max(x, axis=0, out=y); x.min(axis=1, out=x[:, 2])",
    "prod": "np.prod(x, 0, out=y); np.any(x > 0, 0, out=n.astype(bool))",
    "cumsum": "np.cumsum(x, axis=1, out=x); y.cumprod(out=y)",
    "matmul": "np.matmul(x.T[:, :3], x[:3], out=np.zeros((4, 4))); np.matmul(x, y, out=x[:, 0])",
    "dot": "a = np.zeros((3, 3)); np.dot(x, x.T.copy(), out=a); x[:, :3] = a",
    "dot_method": "a = np.zeros(3); x.dot(y, out=a); x[:, 0] = a",
    "einsum": "a = np.empty(3); np.einsum('ij,j->i', x, y, out=a); x[:, 1] = a",
    "clip": "np.clip(x, -0.5, 0.5, out=x); y.clip(0, 1, out=y)",
    "round": "np.round(x * 3, 1, out=x); np.around(y, out=y); y.round(1, out=y)",
    "concatenate": "np.concatenate([y[:2] * 1, y[:2] * 2], out=y); np.stack([y, y, y], out=x)",
    "take": "np.take(x, [1, 0, 2, 3], axis=1, out=x.copy()); np.take(y, n, out=y, mode='clip')",
    "compress": "a = np.zeros((3, 2)); np.compress([True, False, True, False], x, axis=1, out=a); x[:, :2] = a",
    "choose": "np.choose(n % 3, x, out=y)",
    "argmax": "a = np.zeros(4, np.intp); np.argmax(x, axis=0, out=a); x.argmin(axis=0, out=n); n += a",
    "outer": "a = np.zeros((3, 4)); np.outer(y[:3], y, out=a); x += a; np.multiply.outer(y[:3], y, out=x)",
    "reduce": "np.add.reduce(x, axis=0, out=y); np.maximum.reduce(x, axis=1, out=x[:, 0])",
    "accumulate": "np.add.accumulate(y, out=y); np.multiply.accumulate(x, axis=1, out=x)",
    "reduceat": "a = np.zeros(2); np.add.reduceat(y, [0, 2], out=a); y[:2] = a",
    "fix": "np.trunc(x * 3, out=x); np.fix(y * 2, out=y)",
    "median": "np.median(x, axis=0, out=y)",
    "trace": "a = np.zeros(()); np.trace(x, out=a); y += a",
    "where_sum": "np.sum(x, axis=0, out=y, where=x > 0)",
    "isnan": "m = np.ones(4, bool); np.isfinite(y, out=m); y += m; np.logical_not(m, out=m)",
    "ptp": "np.ptp(x, axis=0, out=y)",
    "nansum": "np.nansum(x, axis=0, out=y); np.nanmax(x, axis=1, out=x[:, 0])",
    "cumulative": "np.cumulative_sum(y, out=y)",
    "all": "m = np.zeros(4, bool); np.all(x > 0, axis=0, out=m); y += m",
    "matvec": "np.matvec(x, y, out=x[:, 0]); np.vecdot(x, y, out=x[:, 1])",
    "out_ellipsis_where": "a = np.full(4, 7.0); np.divide(1, y, out=a, where=y > 0); y[:] = a",
    "linspace_buffer": "y[:] = np.linspace(0, 1, 4); np.square(y, out=y); np.power(y, 2, out=y)",
    "nan_to_num": "np.nan_to_num(y, copy=False, nan=1.0); np.copysign(y, x[0], out=y); np.hypot(y, 1, out=y)",
    "maximum_where": "np.maximum(x, 0, out=x); np.minimum(y, 1, out=y, where=x[0] > 0)",
}.items():
    text(f"out_{_name}", _code, "x, y, n")

# -- functions that write

for _name, _code in {
    "copyto": "np.copyto(x, y); np.copyto(y, 3)",
    "copyto_where": "np.copyto(x, y, where=x > 0); np.copyto(y, 1, where=[True, False, True, False])",
    "copyto_casting": "np.copyto(n, y, casting='unsafe')",
    "copyto_view": "np.copyto(x[:, ::2], y[:2]); np.copyto(x.T, 2, where=y[:, None] > 0)",
    "put": "np.put(x, [0, 5, -1], y[:3]); y.put([1, 2], 9); np.put(y, n[:2], [1.5])",
    "put_modes": "np.put(y, [9, -7], [1, 2], mode='wrap'); np.put(x, [30, -4], 5, mode='clip')",
    "put_repeats": "np.put(x, [0, 1, 2, 3, 4], [1, 2]); np.put(y, [0, 0], [3, 4])",
    "put_view": "x[:, 1:].put([0, 4], y[:2]); x.T.put(1, 7)",
    "put_along_axis": "np.put_along_axis(x, n[None, :2], y[None, :2], axis=1); np.put_along_axis(y, n[:1], 3, 0)",
    "put_along_axis_rows": "np.put_along_axis(x, np.argmax(x, axis=1, keepdims=True), 0, axis=1)",
    "put_along_flat": "np.put_along_axis(x, np.array([1, 5]), y[:2], None)",
    "place": "np.place(x, x > 0, [1, 2, 3]); np.place(y, y < 0, y[:1])",
    "place_static": "np.place(y, np.array([True, False, True, True]), x[0, :2])",
    "putmask": "np.putmask(x, x > 0, y); np.putmask(y, y < 0, [1, 2]); np.putmask(x, x < -1, x * 2)",
    "fill": "x[1].fill(y[0]); y.fill(2); x[:, ::2].fill(3)",
    "sort": "x.sort(); y.sort(); x.sort(axis=0)",
    "sort_view": "x[1].sort(); x.T[1:3].sort(); y[::-1].sort()",
    "sort_flat": "x.ravel().sort(); x.reshape(-1)[::2].sort()",
    "sort_kind": "y.sort(kind='stable'); x.sort(axis=-2, kind='heapsort')",
    "partition": "x.partition(3); y.partition(0); y[1:].sort(); x.sort()",
    "fill_diagonal": "np.fill_diagonal(x, 7); np.fill_diagonal(x[:, :3], y[:3])",
    "fill_diagonal_wrap": "a = np.zeros((7, 3)); np.fill_diagonal(a, [1, 2], wrap=True); x += a[0:3, :1]",
    "fill_diagonal_cube": "a = np.zeros((3, 3, 3)); np.fill_diagonal(a, y[0]); x[:, :3] += a[1]",
    "itemset": "x[0, 1] = y[1].item() if False else 2.0",
    "shuffle_free": "y[:] = y[n]; x[:] = x[::-1]",
    "resize_shape": "a = np.resize(y, (3, 4)); a += x; x[:] = a",
    "delete": "x[:, 0] = np.delete(y, 1)",
    "apply_over_rows": "for i in range(3): x[i] = np.sort(x[i]) * y[i]",
    "einsum_diagonal": "np.einsum('ii->i', x[:, :3])[:] = 5; np.einsum('ij->ji', x)[0] += 1",
    "setfield": "y[...] = x[1]; x[2, ...] = 1",
    "nditer_free": "for i, v in np.ndenumerate(np.zeros((3, 4))): x[i] += v + 1",
    "ndindex": "for i in np.ndindex(3, 4): x[i] *= 2 if sum(i) % 2 else 1",
    "enumerate": "for i, r in enumerate(x): r[i] = y[i]",
    "zip": "for r, v in zip(x, y): r *= v",
    "swap_rows": "x[[0, 1]] = x[[1, 0]]",
    "roll_in_place": "x[:] = np.roll(x, 1, axis=1); y[:] = np.roll(y, -1)",
    "tril_indices": "x[np.tril_indices(3)] = 0; x[np.diag_indices(3)] += 1; x[np.triu_indices(3, 1)] *= 2",
    "unravel": "x[np.unravel_index([1, 5], (3, 4))] = 8",
    "nonzero_static": "x[np.nonzero(np.eye(3, 4))] += 1",
    "argsort_write": "y[np.argsort(y)] = np.arange(4.0); x[0, np.argmax(x[0])] = 0",
    "flatnonzero": "y[np.flatnonzero(np.array([1, 0, 1, 0]))] = 5",
    "where_tuple": "x[np.where(np.eye(3, 4) > 0)] = y[:3]",
}.items():
    text(f"write_{_name}", _code, "x, y, n")

# -- ufunc.at

for _name, _code in {
    "add": "np.add.at(y, [0, 0, 2], 1.5); np.add.at(x, ([0, 0], [1, 1]), y[:2]); np.add.at(x, n[:2] % 3, y)",
    "subtract": "np.subtract.at(y, n[[0, 0, 1]], x[0, :3])",
    "multiply": "np.multiply.at(y, [1, 1, 3], 2.0); np.multiply.at(x, ([0, 0], slice(None)), y)",
    "divide": "np.divide.at(y, [0, 0], 2.0)",
    "maximum": "np.maximum.at(y, [0, 0, 1], x[0, :3]); np.minimum.at(x, (slice(None), [1, 1]), 0.0)",
    "power": "np.power.at(y, [2, 2], 2)",
    "negative": "np.negative.at(y, [0, 1, 1]); np.abs.at(x, (0, [1, 2]))",
    "slices": "np.add.at(x, slice(1, None), y); np.add.at(y, ..., 1); np.multiply.at(y, 2, 3.0)",
    "integers": "np.add.at(n, [0, 0], 1); np.bitwise_or.at(n, [1, 1], 8); np.bitwise_xor.at(n, n % 2, 1)",
    "mask": "np.add.at(y, y > 0, 2.0); np.multiply.at(x, np.eye(3, 4) > 0, 3)",
    "logical": "m = y > 0; np.logical_not.at(m, [0, 0, 1]); np.logical_or.at(m, [2], True); y += m",
    "view": "np.add.at(x[:, 1:], (0, [0, 0]), 2.0); np.add.at(x.T, [1, 1], 1.0)",
    "exp": "np.sin.at(y, [0, 0]); np.exp.at(y, n[:1])",
    "fmax": "np.fmax.at(y, [0, 0], x[0, :2]); np.hypot.at(y, [1, 1], 2.0)",
    "remainder": "np.remainder.at(n, [0, 0], 3); np.floor_divide.at(n, [1, 1], 2)",
}.items():
    text(f"at_{_name}", _code, "x, y, n")

# -- out=, where= and at of every ufunc

_DOMAINS = {
    "arccosh": "np.abs({}) + 1.5", "arcsin": "np.tanh({})", "arccos": "np.tanh({})", "arctanh": "np.tanh({}) * 0.9",
    **dict.fromkeys(("log", "log2", "log10", "log1p", "sqrt", "reciprocal"), "np.abs({}) + 0.5"),
}  # fmt: skip
_UNARY = (
    "absolute arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil conjugate cos cosh deg2rad degrees exp exp2 expm1 "
    "fabs floor isfinite isinf isnan log log10 log1p log2 logical_not negative positive rad2deg radians reciprocal "
    "rint sign signbit sin sinh spacing sqrt square tan tanh trunc"
)
_BINARY = (
    "add arctan2 copysign divide equal float_power floor_divide fmax fmin fmod greater greater_equal heaviside hypot "
    "less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor maximum minimum multiply nextafter "
    "not_equal power remainder subtract"
)
_INTEGERS = "bitwise_and bitwise_count bitwise_or bitwise_xor gcd invert lcm left_shift right_shift"
for _name in _UNARY.split():
    _arg = _DOMAINS.get(_name, "{}")
    text(
        f"ufunc_{_name}",
        f"y[:] = {_arg.format('y')}; x[:] = {_arg.format('x')}; np.{_name}(x[0], out=y, where=x[1] > 0.2); "
        f"np.{_name}(x[1:], x[1:]); np.{_name}.at(x, (0, [1, 3]))",
    )
for _name in _BINARY.split():
    text(
        f"ufunc_{_name}",
        f"x[:] = np.abs(x) + 0.5; y[:] = np.abs(y) + 0.7; np.{_name}(x[0], y, out=y, where=x[1] > 1); "
        f"np.{_name}(x[1:], y, {'out=' if _name in ('maximum', 'minimum') else ''}x[1:]); "
        f"np.{_name}.at(x, (0, [1, 3, 1]), 1.5)",
    )
for _name in _INTEGERS.split():
    _second = "" if _name in ("invert", "bitwise_count") else ", 3"
    _at = "" if _name == "bitwise_count" else f"np.{_name}.at(n, [0, 2, 0]{_second}); "
    text(f"ufunc_{_name}", f"np.{_name}(n[1:]{_second}, out=n[1:], where=n[:-1] > 1); {_at}y += n", "n, y")
text("ufunc_ldexp", "np.ldexp(y, n, out=y); np.ldexp(x, 2, out=x, where=x > 0)")
text("ufunc_frexp", "a, e = np.empty(4), np.zeros(4, np.int32); np.frexp(y, a, e); y[:] = a; y += e")
text("ufunc_two_results", "a = np.empty((3, 4)); np.divmod(x, 0.7, out=(a, x)); np.modf(y, y, a[0])", "x, y, a")
text("ufunc_matmul", "np.matmul(x[:, :3], x[:, :3], out=x[:, 1:]); np.vecdot(x, y, out=x[:, 0])")
text("ufunc_where_keeps_digits", "a = y.astype(np.float32); np.add(a, a, out=y, where=a > 0); y += a", "y")
text("ufunc_complex", "np.multiply(z, 1j, out=z, where=y[:3] > 0); np.exp(z, z); np.conjugate.at(z, [0, 1])", "z, y")

# -- buffers and everyday loops


@row
def buffer_filled_row_by_row(x, y, z, n):
    out = np.zeros((3, 4))
    for i in range(3):
        out[i] = x[i] * y
        out[i, 0] = i
    return out


@row
def buffer_empty_like(x, y, z, n):
    buf = np.empty_like(x)
    buf[...] = 1
    for j in range(4):
        buf[:, j] += x[:, j] * y[j]
    return buf, np.full_like(y, 2.5) + np.ones_like(y) + np.zeros_like(y)


@row
def list_filled(x, y, z, n):
    rows = []
    for i in range(3):
        rows.append(x[i] * i)
        rows[-1][0] = y[i]
    table = np.array(rows)
    table[0] = 5
    return table, np.stack(rows), np.vstack(rows), np.array([r.sum() for r in rows]), x


@row
def array_of_scalars(x, y, z, n):
    a = np.array([[y[0], 1.0], [x[0, 0], y[1]]])
    a[0] += 1
    b = np.array([y[0] * 2, 3, x[1, 1]])
    b[1:] -= a[0]
    return a, b


@row
def fortran_buffers(x, y, z, n):
    a = np.zeros((3, 4), order="F")
    v = a.T.reshape(-1)
    v[:5] = 2
    w = a.reshape(-1)
    w += 1
    a += x
    b = np.array(x, order="F")
    b.ravel(order="F")[:3] = y[:3]
    c = np.empty_like(b)
    c[...] = 1
    c.T.reshape(-1)[::2] = 3
    d = np.asarray(x, order="F")
    d[0] = 5
    e = np.ones((2, 3), order="F") + np.full((2, 3), 2.0, order="F")
    e.ravel(order="K")[:4] = 9
    f = x.copy(order="F")
    f.T.ravel()[1] = 7
    g = x.astype(np.float64, order="F")
    g.reshape(-1, order="F")[2] = 8
    return a, v, w, b, c, d, e, f, g, x


@row
def layout_of_results(x, y, z, n):
    a = x.T + 1
    a.ravel()[:2] = 9  # a copy, since the sum keeps the order of memory of x.T
    b = (x.T * 2).T
    b.reshape(-1)[3] = 7
    c = np.sin(x.T).T.ravel()
    c[0] = 3
    d = x.T.copy()
    d.ravel()[1] = 4
    e = np.zeros_like(x.T)
    e.T.ravel()[:3] = 5
    f = np.where(x.T > 0, x.T, 0.0)
    f.ravel()[0] = 6
    g = np.concatenate([x.T, x.T])
    g.ravel()[0] = 6
    h = x[:, ::2] * 1
    h.ravel()[1] = 8
    k = np.sum(x[None].T, axis=2)
    k.ravel()[1] = 8
    return a, b, c, d, e, f, g, h, k


@row
def heat_step(x, y, z, n):
    u = y.copy()
    for _ in range(3):
        u[1:-1] += 0.1 * (u[2:] - 2 * u[1:-1] + u[:-2])
    return u


@row
def gauss_elimination(x, y, z, n):
    a = x[:, :3] + 4 * np.eye(3)
    b = y[:3].copy()
    for k in range(3):
        for i in range(k + 1, 3):
            factor = a[i, k] / a[k, k]
            a[i, k:] -= factor * a[k, k:]
            b[i] -= factor * b[k]
    for k in range(2, -1, -1):
        b[k] = (b[k] - a[k, k + 1 :] @ b[k + 1 :]) / a[k, k]
    return a, b


@row
def helper_functions(x, y, z, n):
    def scaled(a, by):
        a *= by
        return a

    def made(shape):
        out = np.zeros(shape)
        out[0] = 1
        return out

    r = scaled(x[1:], 2)
    r[0] = made(4)
    return r, scaled(y, 3), x


@row
def two_names(x, y, z, n):
    a = b = x
    a = a[0]
    b += 1
    a *= 2
    c = [x, y]
    c[0][1] = c[1]
    c[1] += 1
    d = {"x": x[2], "y": y}
    d["x"] -= d["y"]
    return a, b, c[0], d["x"], y


@row
def views_of_views(x, y, z, n):
    a = x.reshape(2, 6)
    b = a[:, ::-1]
    c = b.T[1:4]
    c[...] = np.arange(6.0).reshape(3, 2)
    b[0, 0] = 9
    d = c.reshape(3, 2, 1)[:, 1]
    d += 1
    x[0] *= 2
    return a, b, c, d, x


@row
def write_between_reads(x, y, z, n):
    a = y[1:3]
    s = a.sum()
    y[:] = y * 2
    t = a.sum()
    a[:] = 0
    return s, t, y.sum(), a


@row
def zero_d(x, y, z, n):
    a = np.zeros(())
    a += y[0]
    b = a[...]
    b *= 2
    a[()] = a + 1
    c = a[()]
    a += 5
    return a, b, c


@row
def reversed_cumulative(x, y, z, n):
    for i in range(1, 4):
        y[i] = y[i] + 0.5 * y[i - 1]
    for i in reversed(range(3)):
        y[i] -= y[i + 1] * 0.25
    return y
