"""nf.dump and NUFUNC_DUMP: every step of a compilation as text, and the graphs among them can be read back and run."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.interpret import run
from nufunc.ir.text import parse_graph, print_graph
from nufunc.runtime.pipeline import STAGES

W, X = np.array([0.5, -1.0, 2.0]), np.arange(12.0).reshape(4, 3) / 10


def loss(w, x):
    y = x.copy()
    y[0] += 1.0
    return np.sum(np.tanh(y * w) ** 2)


def per_sample():
    return nf.vmap(nf.grad(loss), in_dims=(None, 0))


def expected():
    y = X + [1.0, 0, 0]
    t = np.tanh(y * W)
    return 2 * t * (1 - t**2) * y


def test_kernels_for_a_device_without_a_device():
    text = nf.dump(nf.grad(loss), W, X, stage="device")
    assert text.startswith("# device\nprogram loss(f64[3], f64[4,3])")
    assert "# device" not in nf.dump(nf.grad(loss), W, X)


def test_ptx_or_what_is_missing_for_it():
    from nufunc.codegen.cuda import compile as compiler

    try:
        compiler.nvvm_version()
    except compiler.CompilerMissingError:
        with pytest.raises(ImportError, match=r"pip install nufunc\[cuda\]"):
            nf.dump(nf.grad(loss), W, X, stage="ptx")
        return
    text = nf.dump(nf.grad(loss), W, X, stage="ptx")
    assert text.startswith("# ptx\n")
    assert ".target sm_80" in text
    assert ".visible .entry" in text


def sections(text):
    """(stage, body) of each headline of a dump."""
    parts = text.split("\n\n# ")
    return [(p.partition("\n")[0].removeprefix("# "), p.partition("\n")[2]) for p in parts]


def test_every_stage_is_shown_from_traced_text_to_assembly():
    found = [stage for stage, _ in sections(nf.dump(per_sample(), W, X))]
    assert set(STAGES) - set(found) == {"jacobian", "tangents", "device", "ptx"}  # of other transforms, and targets
    assert set(found) < set(STAGES)
    assert "# jacobian" in nf.dump(nf.jacfwd(loss), W, X)
    assert found.index("traced") < found.index("linearized") < found.index("vmapped") < found.index("grouped")
    assert found.index("loops") < found.index("llvm") < found.index("asm")


@pytest.mark.parametrize("stage", ["whole", "pure", "simplified", "grouped"])
def test_whole_graphs_read_back_and_give_the_result(stage):
    ((_, text),) = sections(nf.dump(per_sample(), W, X, stage=stage))
    graph = parse_graph(text)
    assert print_graph(graph) == text
    (result,) = run(graph, [W, X])
    np.testing.assert_allclose(result, expected(), rtol=1e-12)


def test_nodes_carry_the_users_lines():
    text = nf.dump(per_sample(), W, X, stage="simplified")
    first = loss.__code__.co_firstlineno
    assert f'loc("{loss.__code__.co_filename}":{first + 3}, "loss")' in text


def test_views_and_writes_are_in_the_traced_stage_only():
    traced = nf.dump(loss, W, X[0], stage="whole")
    pure = nf.dump(loss, W, X[0], stage="pure")
    assert "write(" in traced
    assert "view_slice" in traced
    assert "write(" not in pure
    assert "view_" not in pure


def test_specs_stand_for_arrays():
    text = nf.dump(per_sample(), nf.spec(3), nf.spec((4, 3)), stage="pure")
    assert "f64[4,3]" in text


def test_assembly_and_llvm_are_what_they_say():
    assert "define" in nf.dump(loss, W, X[0], stage="llvm")
    assert "nf_loss_plan:" in nf.dump(loss, W, X[0], stage="asm")


def test_an_unknown_stage_is_an_error():
    with pytest.raises(nf.ArgumentError, match="simplified"):
        nf.dump(loss, W, X[0], stage="optimised")


def test_dump_compiles_nothing_into_the_cache():
    before = nf.cache_info()
    nf.dump(loss, W, X[0])
    assert nf.cache_info() == before


def test_the_environment_variable_writes_numbered_files(tmp_path, monkeypatch):
    monkeypatch.setenv("NUFUNC_DUMP", str(tmp_path))
    nf.jit(lambda x: np.sin(x) * 3)(np.ones(5))
    (folder,) = tmp_path.iterdir()
    names = sorted(p.name for p in folder.iterdir())
    assert names[0].endswith("-whole.txt")
    assert names[-1].endswith("-asm.txt")
    graph = parse_graph(next(folder.glob("*-simplified.txt")).read_text())
    np.testing.assert_allclose(run(graph, [np.ones(5)])[0], np.sin(np.ones(5)) * 3)


def test_loops_are_python_that_names_the_users_functions():
    text = nf.dump(per_sample(), W, X, stage="loops")
    assert "for " in text
    assert "tanh(" in text


def test_without_the_compiler_the_loops_run_as_python(monkeypatch):
    monkeypatch.setenv("NUFUNC_NOJIT", "1")

    def func(w, x):
        return loss(w, x) * 2.0

    got = nf.vmap(nf.grad(func), in_dims=(None, 0))(W, X)
    np.testing.assert_allclose(got, 2 * expected(), rtol=1e-12)


def test_refusals_to_fuse_can_be_read():
    f = lambda x: np.cumsum(np.exp(x), axis=0)[::2].sum(axis=1)
    ((_, text),) = sections(nf.dump(f, np.ones((4, 5)), stage="fusion"))
    assert "reduce_sum" in text
    assert "is not fused with the group of exp, cumsum: its space is (2, 5), not (4, 5)" in text
    assert nf.dump(lambda x: np.sin(x) + 1, W, stage="fusion").endswith("nothing was refused")
