"""What goes with a library ahead of time: the C header, an example in C, and a manifest that the loader reads."""

from __future__ import annotations

import json
from typing import Any

from nufunc.codegen import backend
from nufunc.codegen.ahead import EntryPoint, Library, Parameter
from nufunc.codegen.callspec import WORKSPACE_ALIGNMENT
from nufunc.ir.types import is_half

_HEADER = """\
/* {name}: compiled by nufunc.
 *
 * Arrays are C-contiguous (the last index runs fastest) and aligned for their type. Results must not overlap inputs or
 * each other; an input without const is written in place. A workspace is memory of at least NAME_WORKSPACE bytes,
 * aligned to {alignment}, that no other call uses meanwhile; with NULL a call finds its own. Functions return 0, or a
 * code that NAME_error explains; then results hold nothing useful. They keep nothing between calls and may be called
 * from several threads at once.
 */
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* By default a call runs on the thread that makes it. Where run is not NULL, large calls hand it their tasks: it calls
 * body(data, task, tasks) once for each task from 0 to tasks - 1, in any order, on threads as it likes, and returns
 * when all are done. Results do not depend on it. Set it while no call is running. */
typedef void (*{name}_body)(void *data, int64_t task, int64_t tasks);
void {name}_parallel_for(void (*run)({name}_body body, void *data, int64_t tasks));

{functions}

#ifdef __cplusplus
}}
#endif

#endif
"""

_EXAMPLE = """\
/* cc example.c -L. -l{name} -lm -Wl,-rpath,. -o example && ./example */
#include <stdio.h>
#include <stdlib.h>
#include "{name}.h"

int main(void) {{
{calls}
    return 0;
}}
"""


def header(library: Library) -> str:
    """The C header."""
    return _HEADER.format(
        name=library.name, guard=f"{library.name.upper()}_H", alignment=f"{WORKSPACE_ALIGNMENT} bytes",
        functions="\n\n".join(map(_declared, library.entries)),
    )  # fmt: skip


def _declared(entry: EntryPoint) -> str:
    lines = [f"/* {entry.about}", " *"]
    lines += [f" * {p.name}: {p.described()}" for p in entry.parameters]
    codes = [f"{code}: {text.replace('*/', '* /')}" for code, text in entry.errors.items()]
    lines += [f" * returns {codes[0]}", *(f" *         {c}" for c in codes[1:]), " */"]
    lines += [
        f"#define {entry.name.upper()}_WORKSPACE {entry.lowered.workspace}",
        f"{entry.prototype()};",
        f"const char *{entry.name}_error(int32_t code);",
    ]
    return "\n".join(lines)


def example(library: Library) -> str:
    """A C program that calls each function once, on numbers between 0 and 1, and prints some of what comes out."""
    return _EXAMPLE.format(name=library.name, calls="\n".join(map(_called, library.entries)))


def _called(entry: EntryPoint) -> str:
    lines = ["{"]
    for p in entry.parameters:
        if p.by_value:
            lines.append(f"    {p.c_type} {p.name} = ({p.c_type})0.5;")
            continue
        lines.append(f"    {p.c_type} *{p.name} = calloc({max(p.elements, 1)}, sizeof *{p.name});")
        lines.append(f"    if (!{p.name}) return 1;")
        if p in entry.inputs:
            bits = {"float16": "0x3800 + i % 10", "bfloat16": "0x3f00 + i % 10"}  # a half and a little more
            number = bits.get(p.dtype.name, f"({p.c_type})((double)(i % 10) / 10.0)")
            lines.append(f"    for (int64_t i = 0; i < {p.elements}; i++) {p.name}[i] = {number};")
    arguments = ", ".join([*(p.name for p in entry.parameters), "NULL"])
    lines.append(f'    printf("{entry.name}: %s\\n", {entry.name}_error({entry.name}({arguments})));')
    lines += [
        f"    for (int64_t i = 0; i < {min(p.elements, 4)}; i++) "
        + (
            f'printf("    {p.name}[%d] = 0x%04x\\n", (int)i, {p.name}[i]);'
            if is_half(p.dtype)
            else f'printf("    {p.name}[%d] = %.17g\\n", (int)i, (double){p.name}[i]);'
        )
        for p in entry.parameters
        if p.written
    ]
    lines += [f"    free({p.name});" for p in entry.parameters if not p.by_value]
    return "\n".join(f"    {line}" for line in [*lines, "}"])


def manifest(library: Library) -> str:
    """All of it as JSON."""
    host = backend.target()
    found = {
        "library": library.name,
        "target": {"triple": host.triple, "cpu": host.cpu, "features": host.features},
        "functions": [
            {
                "name": entry.name,
                "about": entry.about,
                "workspace": entry.lowered.workspace,
                "inputs": [_plain(p) for p in entry.inputs],
                "results": [
                    {**({"input": r.source} if p is None else _plain(p)), "returned": r.returned, "scalar": r.scalar}
                    for p, r in zip(entry.results, entry.lowered.spec.results, strict=True)
                ],
                "errors": {str(code): text for code, text in entry.errors.items()},
            }
            for entry in library.entries
        ],
    }
    return json.dumps(found, indent=1) + "\n"


def _plain(p: Parameter) -> dict[str, Any]:
    return {
        "name": p.name, "shape": list(p.shape), "dtype": p.dtype.name, "by_value": p.by_value, "written": p.written,
        "about": p.about,
    }  # fmt: skip
