"""Runs the LLVM text of CUDA kernels on this processor: what libNVVM is given, with registers, barriers, shuffles and
libdevice's functions answered from Python. So the lowering of texts is checked where there is no device.
"""

import ctypes
import itertools
import re
import threading

import numpy as np
import scipy.special
from cuda_machine import Machine

from nufunc.codegen.cuda import lowering
from nufunc.codegen.cuda.program import Launch
from nufunc.codegen.text_scalars import PLAIN

WARP = 32
_POINTER = re.compile(r"(?:\bi\d+|\bfloat|\bdouble|\bhalf|\[[^\]]*\]|<[^>]*>)\*+")
_PAIR = re.compile(r"(%\S+) = call \{i32, i1\} @llvm\.nvvm\.(shfl\.sync\.i32|vote\.sync)\((.*)\)")
_numbers = itertools.count()


def host_text(text: str) -> str:
    """The module with pointers of today's LLVM and calls of this file's functions."""
    lines = [line for line in text.splitlines() if not line.startswith(("!", "declare {i32, i1}"))]
    text = re.sub(r" addrspace\(\d\)|, !invariant.load !0|, !llvm.loop !\d+", "", "\n".join(lines))
    text = _POINTER.sub("ptr", text)
    for name in ("tid", "ctaid", "ntid", "nctaid"):
        text = text.replace(f"@llvm.nvvm.read.ptx.sreg.{name}.x", f"@nf_{name}")
    text = text.replace("@llvm.nvvm.barrier0", "@nf_barrier").replace("@llvm.nvvm.bar.warp.sync", "@nf_warp_barrier")

    def pair(match: re.Match) -> str:
        name, what, arguments = match.groups()
        arguments = arguments.replace("i1 ", "i1 zeroext ")
        call = f"  {name}.v = call i32 @nf_{what.split('.')[0]}({arguments})"
        return (
            f"{call.strip()}\n  {name}.b = icmp ne i32 {name}.v, 0\n"
            f"  {name}.p = insertvalue {{i32, i1}} undef, i32 {name}.v, 0\n"
            f"  {name} = insertvalue {{i32, i1}} {name}.p, i1 {name}.b, 1"
        )

    text = _PAIR.sub(pair, text)
    return (
        "declare i32 @nf_shfl(i32, i32, i32, i32, i32)\ndeclare i32 @nf_vote(i32, i32, i1 zeroext)\n" + text
    )


class Threads:
    """The threads of the block that runs: their numbers, barriers, and what the lanes of a warp show each other."""

    def __init__(self) -> None:
        self.own = threading.local()
        self.own.thread = 0
        self.block = self.blocks = self.threads = 0

    def begin(self, blocks: int, threads: int) -> None:
        self.blocks, self.threads = blocks, threads
        self.all = threading.Barrier(threads)
        self.warps = [threading.Barrier(min(WARP, threads - w)) for w in range(0, threads, WARP)]
        self.shown = [[0] * WARP for _ in self.warps]

    def exchange(self, value: int) -> list[int]:
        """What the lanes of this warp show."""
        warp, lane = divmod(self.own.thread, WARP)
        self.shown[warp][lane] = value
        self.warps[warp].wait(20)
        seen = list(self.shown[warp])
        self.warps[warp].wait(20)
        return seen

    def shuffle(self, mask: int, mode: int, value: int, argument: int, clamp: int) -> int:
        seen, lane = self.exchange(value), self.own.thread % WARP
        source = {0: argument % WARP, 1: lane - argument, 2: lane + argument, 3: lane ^ argument}[mode]
        return seen[source] if 0 <= source < WARP else value

    def vote(self, mask: int, mode: int, test: int) -> int:
        warp = self.own.thread // WARP
        seen = self.exchange(int(bool(test)))[: self.warps[warp].parties]
        if mode == 3:
            return sum(bit << k for k, bit in enumerate(seen))
        return int(all(seen) if mode == 0 else any(seen))


STATE = Threads()
_int = ctypes.c_int32
_word = ctypes.c_uint32


def _answers() -> dict[str, object]:
    """The functions that kernels call, by symbol."""
    number = ctypes.CFUNCTYPE(_int)
    found = {
        "nf_tid": number(lambda: STATE.own.thread), "nf_ctaid": number(lambda: STATE.block),
        "nf_ntid": number(lambda: STATE.threads), "nf_nctaid": number(lambda: STATE.blocks),
        "nf_barrier": ctypes.CFUNCTYPE(None)(lambda: STATE.all.wait(20) and None),
        "nf_warp_barrier": ctypes.CFUNCTYPE(None, _int)(lambda mask: STATE.exchange(0) and None),
        "nf_shfl": ctypes.CFUNCTYPE(_word, _int, _int, _word, _int, _int)(STATE.shuffle),
        "nf_vote": ctypes.CFUNCTYPE(_word, _int, _int, _word)(STATE.vote),
    }  # fmt: skip
    others = {"tgamma": scipy.special.gamma, "fabs": np.fabs}
    others.update((name, getattr(scipy.special, name)) for name in ("j0", "j1", "y0", "y1"))
    for line in lowering.DECLARATIONS.values():
        match = re.fullmatch(r"declare (float|double) @__nv_(\w+)\((.*)\)", line)
        if match is None:
            continue
        kind, name, given = match.groups()
        type_, scalar = (ctypes.c_float, np.float32) if kind == "float" else (ctypes.c_double, np.float64)
        base = name.removesuffix("f") if kind == "float" else name
        function = others.get(base) or PLAIN.get(base) or getattr(np, base)

        def call(*args: float, function=function, scalar=scalar) -> float:
            with np.errstate(all="ignore"):
                return float(function(*(scalar(a) for a in args)))

        found[f"__nv_{name}"] = ctypes.CFUNCTYPE(type_, *[type_] * len(given.split(",")))(call)
    return found


def _conversions() -> dict[str, object]:
    """What processors have no instruction for: float16, which travels in the lowest bits of a register of floats."""

    def rounded(x: float) -> float:
        with np.errstate(over="ignore"):
            bits = np.array(x, np.float16).view(np.uint16)
        return float(bits.astype(np.uint32).view(np.float32))

    def widened(x: float) -> float:
        return float(np.array(x, np.float32).view(np.uint32).astype(np.uint16).view(np.float16))

    single, double = ctypes.c_float, ctypes.c_double
    return {
        "__truncdfhf2": ctypes.CFUNCTYPE(single, double)(rounded),
        "__truncsfhf2": ctypes.CFUNCTYPE(single, single)(rounded),
        "__extendhfsf2": ctypes.CFUNCTYPE(single, single)(widened),
    }


ANSWERS: dict[str, object] = {}


def compiled(kernel):
    """A kernel as a function of addresses, whether its threads wait for each other, and what keeps the code."""
    from llvmlite import binding

    if not ANSWERS:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        ANSWERS.update(_answers() | _conversions())
        for name, function in ANSWERS.items():
            binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    symbol = f"kernel_{next(_numbers)}"
    text = host_text(lowering.module([(symbol, kernel)]))
    module = binding.parse_assembly(text)
    module.verify()
    machine = binding.Target.from_default_triple().create_target_machine(opt=1)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(kernel.buffers) + 1))
    together = re.search(r"call \w+ @nf_(barrier|warp_barrier|shfl|vote)", text) is not None
    return kind(engine.get_function_address(symbol)), together, engine


def launch(kernel, arrays, functions: dict) -> None:
    """Run a kernel: blocks one after the other, their threads too where they do not wait for each other."""
    if kernel not in functions:
        functions[kernel] = compiled(kernel)
    function, together, _ = functions[kernel]
    addresses = [a.ctypes.data for a in arrays]
    STATE.begin(kernel.blocks, kernel.threads)

    def thread(number: int) -> None:
        STATE.own.thread = number
        function(*addresses)

    for STATE.block in range(kernel.blocks):
        if together:
            workers = [threading.Thread(target=thread, args=(n,)) for n in range(kernel.threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        else:
            for number in range(kernel.threads):
                thread(number)


class NativeMachine(Machine):
    """A machine whose kernels run as compiled code."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.functions: dict = {}

    def launch(self, step: Launch) -> None:
        buffers = step.kernel.buffers
        arrays = [self.bytes(p, b.size * b.dtype.itemsize) for p, b in zip(step.places, buffers, strict=True)]
        launch(step.kernel, [*arrays, self.error], self.functions)
