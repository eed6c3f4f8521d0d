"""Object files in memory without LLVM: laid out, resolved, protected, and freed."""

import ctypes
import os
import sys
from collections.abc import Callable

import pytest

from nufunc.codegen import backend, elf

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="objects of this system are LLVM's to load"
)

PROGRAM = """
@table = internal constant [4 x double] [double 1.0, double 2.0, double 4.0, double 8.0], align 64
@pointers = internal constant [2 x ptr] [ptr @table, ptr @calls]
@calls = internal global i64 5
declare double @fmod(double, double)
declare ptr @memcpy(ptr, ptr, i64)

define internal double @pick(i64 %k) noinline {
  %at = getelementptr double, ptr @table, i64 %k
  %value = load double, ptr %at
  ret double %value
}
define double @run(i64 %k, double %x) {
  %calls.at = getelementptr ptr, ptr @pointers, i64 1
  %where = load ptr, ptr %calls.at
  %old = load i64, ptr %where
  %new = add i64 %old, 1
  store i64 %new, ptr %where
  %value = call double @pick(i64 %k)
  %rest = call double @fmod(double %x, double %value)
  %more = sitofp i64 %new to double
  %sum = fadd double %rest, %more
  ret double %sum
}
"""


def compiled() -> backend.Executable:
    return backend.compile_module(PROGRAM, "program")


def check(executable: backend.Executable) -> None:
    run = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_double)(executable.address("run"))
    assert [run(2, 11.5), run(3, 11.5)] == [11.5 % 4 + 6, 11.5 % 8 + 7]


def protections(address: int) -> str:
    with open("/proc/self/maps") as file:
        for line in file:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                return line.split()[1]
    return "nothing"


def test_code_constants_and_variables_work_and_are_protected() -> None:
    executable = compiled()
    check(executable)
    with pytest.raises(backend.BackendError, match="no symbol 'pick'"):  # which is internal
        executable.address("pick")
    address = executable.address("run")
    assert protections(address) == "r-xp"
    executable.close()
    assert "x" not in protections(address)  # freed, though other memory may stand there


def test_llvm_loads_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elf, "host_loads", lambda: False)
    executable = compiled()
    assert executable.code._image is None
    check(executable)


def _other_machine(data: bytearray) -> None:
    data[18:20] = (183).to_bytes(2, "little")


def _other_reference(data: bytearray) -> None:
    sections = elf._sections(bytes(data))
    table = next(s for s in sections if s.kind == elf._RELA and sections[s.info].flags & elf._EXEC)
    data[table.offset + 8 : table.offset + 12] = (22).to_bytes(4, "little")


def _start_up_code(data: bytearray) -> None:
    sections = elf._sections(bytes(data))
    (headers,) = (int.from_bytes(data[0x28:0x30], "little"),)
    k = next(k for k, s in enumerate(sections) if s.flags & elf._WRITE)
    data[headers + 64 * k + 4 : headers + 64 * k + 8] = elf._INIT_ARRAY.to_bytes(4, "little")


@pytest.mark.parametrize("change", [_other_machine, _other_reference, _start_up_code])
def test_other_objects_are_left_to_llvm(change: Callable[[bytearray], None]) -> None:
    code = compiled().object_code
    addresses = dict.fromkeys(elf.undefined_symbols(code), 1)
    assert elf.Image.of(code, addresses.__getitem__) is not None
    data = bytearray(code)
    change(data)
    assert elf.Image.of(bytes(data), addresses.__getitem__) is None
    assert elf.Image.of(b"MZ" + code, addresses.__getitem__) is None


def test_the_process_says_where_functions_are() -> None:
    assert elf.process_address("memcpy") != 0
    assert elf.process_address("no_such_function") == 0
