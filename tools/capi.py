"""Writes every signature of the C API from the one table below: `python tools/capi.py` after a change of the table.

What it writes stands between two marks in csoftmax.h, _capi.pxd, _capi.pyx, __init__.pxd, memview.pxd and the Cython
consumer of the tests. tests/capi/signatures.txt, the record of what has been published, is only ever added to.
"""

import argparse
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTH = 120
HEADER_WIDTH = 110
RECORD = "tests/capi/signatures.txt"
BEGIN, END = "tools/capi.py writes from here", "tools/capi.py writes to here"
# What the types of arrays are in memview.pxd, and in the functions that it calls.
FUSED = {"T": "floating", "L": "floating"}
VOID = {"T": "void", "L": "void", "int64_t": "void"}


# ------------------------------------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Array:
    """An array of the C API: rows of elements, or, without a step, one element a row."""

    name: str
    view: str  # its name in memview.pxd
    written: bool = False
    type: str = "T"  # T: the function's type, L: that of its losses
    step: bool = True

    def c_parameters(self, types):
        """Return a pointer and its strides, T and L being what `types` says."""
        kind = types.get(self.type, self.type)
        parts = [f"{'' if self.written else 'const '}{kind} *{self.name}", f"ptrdiff_t {self.name}_row"]
        return parts + ([f"ptrdiff_t {self.name}_step"] if self.step else [])

    def c_arguments(self):
        """Return what an inline function of memview.pxd passes: the first element and the strides in bytes."""
        strides = [f"{self.view}.strides[{d}]" for d in range(1 + self.step)]
        return [f"&{self.view}[{', '.join('0' for _ in strides)}]", *strides]

    def view_parameter(self):
        kind = FUSED.get(self.type, self.type)
        return f"{'' if self.written else 'const '}{kind}[{', '.join(':' for _ in range(1 + self.step))}] {self.view}"

    def setting(self, i, size):
        """Return the line of _capi.pyx that makes it the function's array `i`; its strides count `size` bytes."""
        strides = f"{self.name}_row, {self.name + '_step' if self.step else 0}"
        return f"    set_strided(&a[{i}], {self.name}, {strides}, {size})"


@dataclass(frozen=True)
class Number:
    """A number of the C API, and its default in memview.pxd."""

    name: str
    type: str
    default: str

    def c_parameters(self, types):
        return [f"{self.type} {self.name}"]


@dataclass(frozen=True)
class Function:
    """An operation. `run` is how _capi.pyx computes it: a function, the kernels' operation, and the numbers."""

    name: str
    version: int  # of the API, in which it came; 0: it is in memview.pxd alone
    parameters: tuple
    run: tuple
    says: str
    same_as: str = ""  # whose function of the C API memview.pxd calls, if not its own

    def c_parameters(self, types):
        return ["ptrdiff_t rows", "ptrdiff_t n", *(c for p in self.parameters for c in p.c_parameters(types))]

    @property
    def arrays(self):
        return [p for p in self.parameters if isinstance(p, Array)]

    @property
    def numbers(self):
        return [p for p in self.parameters if isinstance(p, Number)]


TEMPERATURE = Number("temperature", "double", "1.0")
IGNORE_INDEX = Number("ignore_index", "int64_t", "-100")
X, Y = Array("x", "x"), Array("y", "out", written=True)
TOTAL = Array("y", "out", written=True, step=False)
LOGITS = Array("x", "logits")
TARGET = Array("target", "target", type="int64_t", step=False)
LOSS = Array("loss", "loss", written=True, type="L", step=False)


def product(name, version, operation, tangent, result, says, same_as=""):
    """Return the function of a Jacobian's product with an array."""
    arrays = (Array("dy", tangent), Array("y", "output"), Array("dx", result, written=True))
    return Function(name, version, (*arrays, TEMPERATURE), ("backward", operation, "temperature"), says, same_as)


TABLE = [
    Function(
        "softmax", 1, (X, Y, TEMPERATURE), ("forward", "SOFTMAX", "temperature"),
        "Writes the softmax of each row of x / temperature.",
    ),
    Function(
        "log_softmax", 1, (X, Y, TEMPERATURE), ("forward", "LOG_SOFTMAX", "temperature"),
        "Writes the logarithm of the softmax of each row of x / temperature.",
    ),
    Function(
        "logsumexp", 1, (X, TOTAL), ("forward", "LOGSUMEXP", "1"),
        "Writes the logarithm of the sum of exponentials of each row; -inf where rows have no elements.",
    ),
    product(
        "softmax_backward", 1, "SOFTMAX_GRAD", "grad_output", "grad_input",
        "Writes the gradient with respect to x, from the softmax that was returned for the same temperature.",
    ),
    product(
        "log_softmax_backward", 1, "LOG_SOFTMAX_VJP", "grad_output", "grad_input",
        "Writes the gradient with respect to x, from the log_softmax that was returned for the same temperature.",
    ),
    Function(
        "cross_entropy", 1, (LOGITS, TARGET, IGNORE_INDEX, LOSS),
        ("loss_of", "CROSS_ENTROPY", "ignore_index", "1"),
        "Writes one loss a row: 0 where the target is ignore_index.",
    ),
    Function(
        "cross_entropy_with_grad", 1,
        (LOGITS, TARGET, IGNORE_INDEX, LOSS, Array("dx", "grad", written=True), Number("scale", "double", "1.0")),
        ("loss_of", "CROSS_ENTROPY_GRAD", "ignore_index", "scale"),
        "Writes one loss a row, and the gradient of each loss times scale (1 / rows: of their mean).",
    ),
    product(
        "log_softmax_jvp", 2, "LOG_SOFTMAX_JVP", "tangent", "out",
        "Writes the directional derivative, from the log_softmax that was returned for the same temperature.",
    ),
    product(
        "softmax_jvp", 0, "", "tangent", "out",
        "Writes the directional derivative, from the softmax that was returned for the same temperature.",
        same_as="softmax_backward",  # the Jacobian of softmax is symmetric
    ),
]
# By suffix: the type T, the type L of losses, and the storage of T.
TYPES = {
    "f32": ("float", "float", "CSM_F32"),
    "f64": ("double", "double", "CSM_F64"),
    "f16": ("csm_f16", "float", "CSM_F16"),
    "bf16": ("csm_bf16", "float", "CSM_BF16"),
}
VERSIONS = sorted({f.version for f in TABLE} - {0})


def of_version(version):
    return [f for f in TABLE if f.version == version]


def typed():
    """Yield (function, suffix) in the order of the table that C sees: version by version, type by type."""
    for version in VERSIONS:
        for suffix in TYPES:
            for function in of_version(version):
                yield function, suffix


def types_of(suffix):
    return dict(zip("TL", TYPES[suffix], strict=False))


# ----------------------------------------------------------------------------------------------- what is written


def broken(text, indent, further, width=WIDTH):
    """Return the text as lines that are indented, all but the first of them further, and broken at plain spaces."""
    indents = {"initial_indent": indent, "subsequent_indent": indent + further}
    return [line.replace("\xa0", " ") for line in textwrap.wrap(text, width, break_long_words=False, **indents)]


def whole(part):
    """Return a part of a text that `broken` is not to break."""
    return part.replace(" ", "\xa0")


def listed(parts):
    return ", ".join(map(whole, parts))


def bracketed(head, content, tail, indent, further):
    """Return lines of `head(content)tail`: one, or a first one that ends with the bracket."""
    line = f"{indent}{head}({content}){tail}".replace("\xa0", " ")
    if len(line) <= WIDTH:
        return [line]
    return [f"{indent}{head}(", *broken(f"{content}){whole(tail)}", indent + further, "")]


def signature(name, parameters, tail=""):
    return bracketed(f'cdef int {name} "csm_{name}"', listed(parameters), f" noexcept nogil{tail}", "", 8 * " ")


def by_bytes(function):
    """Return the parameters of the function that memview.pxd calls: untyped arrays, whose strides count bytes."""
    return ["ptrdiff_t size", *function.c_parameters(VOID)]


def header():
    lines = ["/* clang-format off */"]
    for version in VERSIONS:
        lines.append(f"#define CSM_FUNCTIONS{'' if version == 1 else f'_{version}'}(F, T, S, L)")
        for function in of_version(version):
            text = f"F({function.name}_##S, ({listed(function.c_parameters({}))}))"
            lines += broken(text, "    ", "  ", HEADER_WIDTH - 6)
        lines = [*lines, ""]
    lines += [
        "/* All functions, in the order of the table. New ones are only ever added at the end, with a new version. */",
        f"#define CSM_API_VERSION {VERSIONS[-1]}",
        "#define CSM_ALL_FUNCTIONS(F)",
    ]
    for version in VERSIONS:
        for suffix, (kind, loss, _) in TYPES.items():
            lines.append(f"    CSM_FUNCTIONS{'' if version == 1 else f'_{version}'}(F, {kind}, {suffix}, {loss})")
    goes_on = [i for i, line in enumerate(lines[:-1]) if lines[i + 1].startswith(" ")]
    for i in goes_on:
        lines[i] = f"{lines[i]:<{HEADER_WIDTH - 2}} \\"
    return [*lines, "/* clang-format on */"]


def declarations():
    lines = []
    for function, suffix in typed():
        lines += signature(f"{function.name}_{suffix}", function.c_parameters(types_of(suffix)))
    lines += ["", "# What memview.pxd calls: `size` bytes an element of reals, and strides in bytes."]
    for function in TABLE:
        if function.version:
            lines += signature(f"memview_{function.name}", by_bytes(function))
    return lines


def definition(name, parameters, function, storage, size):
    callee, operation, *numbers = function.run
    return [
        *signature(name, parameters, ":"),
        f"    cdef Strided a[{len(function.arrays)}]",
        *(a.setting(i, size(a)) for i, a in enumerate(function.arrays)),
        f"    return {callee}({', '.join([operation, storage, 'rows', 'n', 'a', *numbers])})",
        "",
    ]


def definitions():
    lines = []
    for function, suffix in typed():
        types = types_of(suffix)
        name, parameters = f"{function.name}_{suffix}", function.c_parameters(types)
        lines += definition(
            name, parameters, function, TYPES[suffix][2], lambda a, types=types: f"sizeof({types.get(a.type, a.type)})"
        )
    for function in TABLE:
        if function.version:
            name = f"memview_{function.name}"
            lines += definition(name, by_bytes(function), function, "reals_of(size)", lambda a: "1")
    return lines[:-1]


def cimported():
    names = [f"{function.name}_{suffix}" for function, suffix in typed()]
    return ["from csoftmax._capi cimport (", *broken(", ".join(names) + ",", "    ", ""), ")"]


def addresses():
    names = [f"{function.name}_{suffix}" for function, suffix in typed()]
    return ["    return {", *(f'        "{name}": <size_t> csoftmax.{name},' for name in names), "    }"]


def condition(tests):
    """Return the line, or the lines in brackets, of an `if`."""
    lines = broken(f"if {' or '.join(tests)}:", "    ", 8 * " ")
    return lines if len(lines) == 1 else broken(f"if ({' or '.join(tests)}):", "    ", 8 * " ")


def inline_function(function):
    """Return a function of typed memoryviews: it compares the shapes and passes pointers and strides on."""
    first, *others = function.arrays
    shape = [f"{first.view}.shape[0]", f"{first.view}.shape[1]"]
    misfits = [whole(f"{a.view}.shape[{d}] != {shape[d]}") for a in others for d in range(1 + a.step)]
    parameters = [a.view_parameter() for a in function.arrays]
    parameters += [f"{n.type} {n.name}={n.default}" for n in function.numbers]
    arguments = ["sizeof(floating)", *shape]
    for p in function.parameters:
        arguments += p.c_arguments() if isinstance(p, Array) else [p.name]
    callee = f"memview_{function.same_as or function.name}"
    return [
        *bracketed(f"cdef inline int {function.name}", listed(parameters), " noexcept nogil:", "", 8 * " "),
        f'    """{function.says}"""',
        *condition(misfits),
        "        return CSM_BAD_SHAPE",
        *bracketed(f"return {callee}", listed(arguments), "", "    ", "    "),
        "",
        "",
    ]


def inline_functions():
    lines = [line for function in TABLE for line in inline_function(function)]
    return lines[:-2]


def with_section(text, lines):
    """Return a file's text with other lines between its marks."""
    begin, end = (re.search(rf"^.*{mark}.*\n", text, re.MULTILINE) for mark in (BEGIN, END))
    return text[: begin.end()] + "\n".join(lines) + "\n" + text[end.start() :]


SECTIONS = {
    "csoftmax/include/csoftmax/csoftmax.h": header,
    "csoftmax/_capi.pxd": declarations,
    "csoftmax/_capi.pyx": definitions,
    "csoftmax/__init__.pxd": cimported,
    "csoftmax/memview.pxd": inline_functions,
    "tests/capi/consumers/consumer.pyx": addresses,
}


def exported_signature(parameters):
    """Return a signature as Cython writes it into the module: types alone, with const after them."""
    kinds = []
    for parameter in parameters:
        kind = parameter.rpartition("*" if "*" in parameter else " ")[0].strip()
        kind = re.sub(r"csm_b?f16", "uint16_t", kind)
        kind = f"{kind.removeprefix('const ')} const" if kind.startswith("const ") else kind
        kinds.append(f"{kind} *" if "*" in parameter else kind)
    return f"int ({', '.join(kinds)})"


def record(published):
    """Return the record with what is new at its end. Exits if anything that was published has changed."""
    signatures = {f"{f.name}_{suffix}": exported_signature(f.c_parameters(types_of(suffix))) for f, suffix in typed()}
    signatures |= {f"memview_{f.name}": exported_signature(by_bytes(f)) for f in TABLE if f.version}
    known = dict(line.split(": ") for line in published.splitlines() if not line.startswith("#"))
    for name, kinds in known.items():
        if signatures.get(name) != kinds:
            sys.exit(f"{RECORD} has {name}: {kinds}, which may not change, but the table {signatures.get(name)}")
    return published + "".join(f"{name}: {kinds}\n" for name, kinds in signatures.items() if name not in known)


def rewritten():
    """Yield (path, text, text as it is to be) of every file that has signatures."""
    for name in (*SECTIONS, RECORD):
        text = (ROOT / name).read_text()
        yield ROOT / name, text, record(text) if name == RECORD else with_section(text, SECTIONS[name]())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, but fail where a file would change")
    check = parser.parse_args().check
    stale = [(path, wanted) for path, text, wanted in rewritten() if text != wanted]
    if check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path, _ in stale)
        sys.exit(f"not as tools/capi.py writes them: {names}; run python tools/capi.py")
    for path, wanted in stale:
        path.write_text(wanted)


if __name__ == "__main__":
    main()
