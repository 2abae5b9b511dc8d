"""Wrong changes of Cython and C sources: where the rules of `RULES` find one, and what it turns the text into.

Sources are read as tokens, without a parser: a rule sees the tokens of a function's body and yields the part of the
text that it changes. The part is an expression between two delimiters, or a whole statement, so that it can be written
as a choice at run time between what is right and what is wrong. What does not compile so is dropped by the build.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

TOKEN = r"""
    (?P<comment> COMMENT )
  | (?P<string> [rRbBfFuU]{0,2} (?: \"""(?:\\.|[^\\])*?\""" | '''(?:\\.|[^\\])*?'''
                                 | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' ) )
  | (?P<number> 0[xX][0-9a-fA-F.]+(?:[pP][+-]?\d+)?\w* | \.?\d[\d.]*(?:[eE][+-]?\d+)?\w* )
  | (?P<name> [^\W\d]\w* )
  | (?P<newline> \n )
  | (?P<space> [^\S\n]+ | \\\n )
  | (?P<operator> <<= | >>= | // =? | -> | \+\+ | -- | << | >> | [<>=!+\-*/%&|^]= | && | \|\| | \*\* | . )
"""
TOKENS = {
    language: re.compile(TOKEN.replace("COMMENT", comment), re.VERBOSE | re.DOTALL)
    for language, comment in (("cython", r"\#[^\n]*"), ("c", r"//[^\n]*|/\*.*?\*/"))
}
OPEN, CLOSE = {"(": ")", "[": "]", "{": "}"}, {")": "(", "]": "[", "}": "{"}
KEYWORDS = {
    *("if", "elif", "else", "while", "return", "and", "or", "not", "in", "is", "for", "by", "from", "yield", "lambda"),
    *("do", "switch", "case", "goto", "break", "continue", "pass", "raise", "del", "with", "try", "except", "finally"),
}
ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "//=", "%=", "&=", "|=", "^=", "<<=", ">>="}
DELIMITERS = {",", ";", ":", "?", "&&", "||", "\n", "!", *ASSIGNMENTS}
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
ARITHMETIC = {"+": "-", "-": "+", "*": "+", "/": "*", "//": "*", "%": "+", "<<": ">>", ">>": "<<", "&": "|", "|": "&"}
COMPENSATION = re.compile(r"(low|rest|rests|lost|residual|back|error|tail)$|_(low|rest|lost|residual)(_\w+)?$")
ORDERED = re.compile(r"(sub|div|max|min|select|two_sum|quotient|above|fold|join|residual|blend|cmp|unpack)", re.I)
STRIDE = re.compile(r"(stride|pitch|step|size_of_row|offset)s?$")


@dataclass
class Token:
    kind: str
    text: str
    start: int
    depth: int = 0
    mate: int = -1  # index of the bracket that closes or opens this one

    @property
    def end(self):
        return self.start + len(self.text)


@dataclass
class Change:
    """`wrong` in place of the text from `start` to `end`."""

    rule: str
    file: str
    line: int
    function: str
    start: int
    end: int
    right: str
    wrong: str
    # or a "statement" that is left out, a "pair" of arguments that are swapped, a "branch" taken always or never
    kind: str = "expression"
    seed: int = 0
    number: int = 0  # what switches it on

    def __str__(self):
        change = f"without {self.right}" if self.kind == "statement" else f"{self.right} -> {self.wrong}"
        return f"{self.file}:{self.line} ({self.function}) {self.rule}: {' '.join(change.split())}"


def tokens_of(text, language):
    """Tokens without comments and spaces; newlines within brackets are spaces too, as are all of C's."""
    tokens, opened = [], []
    for match in TOKENS[language].finditer(text):
        kind = match.lastgroup
        if kind in ("comment", "space") or (kind == "newline" and (language == "c" or opened)):
            continue
        token = Token(kind, match[0], match.start(), len(opened))
        if token.text in OPEN:
            opened.append(len(tokens))
        elif token.text in CLOSE and opened:
            token.mate = opened.pop()
            token.depth = len(opened)
            tokens[token.mate].mate = len(tokens)
        tokens.append(token)
    return merge_casts(tokens) if language == "cython" else tokens


def is_operand(token):
    """Can an operand end with it?"""
    named = token.kind == "name" and token.text not in KEYWORDS
    return named or token.kind in ("number", "string") or token.text in (")", "]")


def merge_casts(tokens):
    """Makes one token of each of Cython's casts, `<const char *>`, whose signs are no comparisons."""
    merged, i = [], 0
    while i < len(tokens):
        end = i + 1
        while end < len(tokens) and (tokens[end].kind == "name" or tokens[end].text in ("*", ".", "&", "**")):
            end += 1
        cast = tokens[i].text == "<" and end > i + 1 and end < len(tokens) and tokens[end].text == ">"
        if cast and not (merged and is_operand(merged[-1])):
            inside = " ".join(t.text for t in tokens[i + 1 : end])
            merged.append(Token("cast", f"<{inside}>", tokens[i].start, tokens[i].depth))
            i = end + 1
        else:
            merged.append(tokens[i])
            i += 1
    shift = {id(token): index for index, token in enumerate(merged)}
    for token in merged:
        if token.mate >= 0:
            token.mate = shift[id(tokens[token.mate])]
    return merged


class Source:
    """A file as tokens, and which of them rules may look at."""

    def __init__(self, root, file):
        self.file = file
        self.text = (Path(root) / file).read_text()
        self.language = "c" if file.endswith((".c", ".h")) else "cython"
        self.tokens = tokens_of(self.text, self.language)
        self.bodies = c_bodies(self) if self.language == "c" else cython_bodies(self)

    def line_of(self, position):
        return self.text.count("\n", 0, position) + 1

    def written(self, first, last):
        """The text of tokens `first` to `last` on one line, without comments."""
        parts = []
        for i in range(first, last + 1):
            token, before = self.tokens[i], self.tokens[i - 1]
            parts.append(" " if i > first and token.start > before.end else "")
            parts.append(token.text.replace("\n", " ") if token.kind != "newline" else " ")
        return "".join(parts)

    def end_of(self, i):
        """Where a token ends in the text; a cast is written with other spaces than it has there."""
        return self.text.index(">", self.tokens[i].start) + 1 if self.tokens[i].kind == "cast" else self.tokens[i].end


def logical_lines(source):
    """First and last token of each line of Cython, continued ones as one."""
    first = 0
    for i, token in enumerate(source.tokens):
        if token.kind == "newline":
            if i > first:
                yield first, i - 1
            first = i + 1
    if first < len(source.tokens):
        yield first, len(source.tokens) - 1


def column(source, i):
    start = source.tokens[i].start
    return start - (source.text.rfind("\n", 0, start) + 1)


def cython_bodies(source):
    """(function, first token, last token) of every statement in a function, declarations from their `=` on."""
    tokens, header, name = source.tokens, None, ""
    for first, last in logical_lines(source):
        words = {t.text for t in tokens[first : last + 1] if t.kind == "name"}
        if header is not None and column(source, first) <= header:
            header = None
        if header is None or tokens[first].text in ("def", "cpdef"):
            kinds = {"class", "struct", "enum", "extern", "union"}
            opened = [i for i in range(first, last) if tokens[i].text == "(" and tokens[i - 1].kind == "name"]
            definition = tokens[first].text in ("def", "cdef", "cpdef") and tokens[last].text == ":"
            if definition and opened and not kinds & words:
                header, name = column(source, first), tokens[opened[0] - 1].text
            continue
        if tokens[first].text in ("import", "cimport", "from", "raise", "global", "nonlocal", "del", "@", "assert"):
            continue
        if tokens[first].text == "for" and {"from"} & words:
            continue
        if tokens[first].kind == "string":
            continue
        if tokens[first].text == "cdef":
            yield from ((name, *part) for part in initialisers(source, first, last))
        else:
            yield name, first, last


def initialisers(source, first, last):
    """What follows each `=` of a declaration."""
    tokens, begun = source.tokens, None
    for i in range(first, last + 2):
        at_end = i > last or (tokens[i].text == "," and tokens[i].depth == tokens[first].depth)
        if at_end and begun is not None:
            yield begun, i - 1
            begun = None
        elif not at_end and tokens[i].text == "=" and tokens[i].depth == tokens[first].depth:
            begun = i + 1


def c_bodies(source):
    """(function, first token, last token) of each statement of a function's body and of each macro with arguments."""
    tokens, i = source.tokens, 0
    skipped, macros = directives(source)
    yield from macros
    while i < len(tokens):
        token = tokens[i]
        if token.start in skipped or token.text != "{" or token.mate < 0:
            i += 1
        elif i and tokens[i - 1].text == ")":
            name = tokens[tokens[i - 1].mate - 1].text
            yield from ((name, *part) for part in c_statements(source, i + 1, token.mate - 1, skipped))
            i = token.mate + 1
        elif i and tokens[i - 1].kind == "string":  # extern "C" {
            i += 1
        else:
            i = token.mate + 1


def directives(source):
    """Where the tokens of preprocessor lines start, and the bodies of macros with arguments."""
    starts, macros, tokens = set(), [], source.tokens
    index = {token.start: i for i, token in enumerate(tokens)}
    for match in re.finditer(r"^[ \t]*#(?:\\\n|/\*.*?\*/|[^\n])*", source.text, re.M):
        inside = [index[p] for p in range(match.start(), match.end()) if p in index]
        starts |= {tokens[i].start for i in inside}
        head = re.match(r"[ \t]*#[ \t]*define[ \t]+(\w+)\(", match[0])
        opened = head and next(i for i in inside if tokens[i].text == "(")
        if opened and tokens[opened].mate in inside and tokens[opened].mate < inside[-1]:
            macros.append((head[1], tokens[opened].mate + 1, inside[-1]))
    return starts, macros


def c_statements(source, first, last, skipped):
    tokens, begun, parentheses = source.tokens, first, 0
    for i in range(first, last + 1):
        parentheses += (tokens[i].text in ("(", "[")) - (tokens[i].text in (")", "]"))
        if tokens[i].start in skipped or (tokens[i].text in (";", "{", "}") and parentheses == 0):
            if i > begun and not constant(tokens[begun:i]):
                yield begun, i - 1
            begun = i + 1


def constant(statement):
    """Does it need values that the compiler knows?"""
    return bool({"static", "case", "enum", "_Static_assert", "typedef"} & {t.text for t in statement[:4]})


# ------------------------------------------------------------------------------------------------------ parts


def edge(source, i, low, high, step, more=()):
    """The last token from `i` on, in the direction of `step`, of the expression that it is part of."""
    tokens, depth = source.tokens, source.tokens[i].depth
    while low <= i + step <= high:
        token = tokens[i + step]
        ends = token.text in DELIMITERS or token.text in KEYWORDS or token.text in more
        if token.depth < depth or (token.depth == depth and ends):
            break
        i += step
    return i


def is_binary(source, i, low, high):
    tokens = source.tokens
    if i <= low or i >= high or not is_operand(tokens[i - 1]):
        return False
    if tokens[i].text in ("*", "&") and source.language == "c":
        # a declaration, `const float *p`, or a cast, `(char *)p`
        start = edge(source, i, low, high, -1)
        plain = all(t.kind == "name" or t.text == "*" for t in tokens[start:i])
        if tokens[i + 1].text in (")", ",", "*") or (plain and (start == low or tokens[start - 1].text in ("{", ";"))):
            return False
    return tokens[i - 1].kind != "string" and tokens[i + 1].kind != "string"


def arguments(source, opened):
    """First and last token of each argument of a call."""
    tokens, first = source.tokens, opened + 1
    for i in range(opened + 1, tokens[opened].mate + 1):
        if (tokens[i].text == "," and tokens[i].depth == tokens[opened].depth + 1) or i == tokens[opened].mate:
            if i > first:
                yield first, i - 1
            first = i + 1


def calls(source, low, high):
    """(name's token, its arguments) of every call that is not an attribute's."""
    tokens = source.tokens
    for i in range(low, high):
        opened = tokens[i + 1]
        named = tokens[i].kind == "name" and tokens[i].text not in KEYWORDS
        attribute = i > low and tokens[i - 1].text in (".", "->")
        if named and not attribute and opened.text == "(" and i < opened.mate <= high:
            yield i, list(arguments(source, i + 1))


def is_statement(source, low):
    """Does a statement start there, and not what follows `=` or `)`?"""
    before = source.tokens[low - 1]
    return before.text in (";", "{", "}") if source.language == "c" else low == 0 or before.kind == "newline"


# ------------------------------------------------------------------------------------------------------ rules
# Each yields (first token, last token, what is written instead) for a statement from token `low` to `high`; instead of
# two arguments the pair of them, instead of a whole statement None.


def operators(source, low, high):
    for i in range(low, high + 1):
        other = ARITHMETIC.get(source.tokens[i].text)
        if other and is_binary(source, i, low, high):
            first = edge(source, i, low, high, -1, COMPARISONS)
            last = edge(source, i, low, high, 1, COMPARISONS)
            if first < i < last:
                yield first, last, f"{source.written(first, i - 1)} {other} {source.written(i + 1, last)}"


def comparisons(source, low, high):
    for i in range(low, high + 1):
        other = COMPARISONS.get(source.tokens[i].text)
        if other and is_binary(source, i, low, high):
            first, last = edge(source, i, low, high, -1), edge(source, i, low, high, 1)
            if first < i < last:
                yield first, last, f"{source.written(first, i - 1)} {other} {source.written(i + 1, last)}"


def bounds(source, low, high):
    """The end of a range, one less or more; a loop's start."""
    for i, found in calls(source, low, high):
        if source.tokens[i].text == "range":
            first, last = found[0] if len(found) == 1 else found[1]
            yield first, last, f"{source.written(first, last)} - 1"
            yield first, last, f"{source.written(first, last)} + 1"
            if len(found) > 1:
                yield *found[0], f"{source.written(*found[0])} + 1"


def constants(source, low, high):
    """An integer one larger; a float a little off."""
    for i in range(low, high + 1):
        token = source.tokens[i]
        if token.kind == "number" and (i == low or source.tokens[i - 1].text not in (".", "->")):
            real = "." in token.text or re.search(r"\d[eE]|[pP][+-]?\d", token.text.lower().removeprefix("0x"))
            yield i, i, f"{token.text} * 1.0009765625" if real else f"{token.text} + 1"


def indices(source, low, high):
    tokens = source.tokens
    for i in range(low + 1, high):
        if tokens[i].text == "[" and tokens[i].mate > i + 1 and is_operand(tokens[i - 1]):
            inside = tokens[i + 1 : tokens[i].mate]
            if all(t.text not in (":", ",") and t.kind != "string" for t in inside):
                yield i + 1, tokens[i].mate - 1, f"{source.written(i + 1, tokens[i].mate - 1)} + 1"


def compensations(source, low, high):
    """A product without what is added to it; a sum without the part that corrects it."""
    tokens = source.tokens
    for i, found in calls(source, low, high):
        name, last = tokens[i].text, tokens[i + 1].mate
        if is_statement(source, low) and (i, last) == (low, high):
            continue  # of no value
        if len(found) == 3 and re.search("fn?m(add|a)|fma", name):
            product = re.sub("fn?madd|fma", "mul", name) if name != "fma" else ""
            yield i, last, f"{product}({source.written(*found[0])}, {source.written(*found[1])})" if product else (
                f"({source.written(*found[0])}) * ({source.written(*found[1])})"
            )
        elif len(found) == 2 and re.search("add|sub", name):
            yield i, last, source.written(*found[0])
    for i in range(low + 1, high):
        if tokens[i].text in ("+", "-") and is_binary(source, i, low, high):
            first = edge(source, i, low, high, -1, COMPARISONS)
            last = edge(source, i, low, high, 1, {*COMPARISONS, "+", "-"})
            if first < i < last and COMPENSATION.search(tokens[last].text):
                yield first, last, source.written(first, i - 1)


def swaps(source, low, high):
    tokens = source.tokens
    for i, found in calls(source, low, high):
        if len(found) >= 2 and ORDERED.search(tokens[i].text):
            for a, b in itertools.pairwise(found):
                if source.written(*a) != source.written(*b):
                    yield a[0], b[1], (source.written(*b), source.written(*a))
    for i in range(low + 1, high):
        if tokens[i].text in ("-", "/", "//") and is_binary(source, i, low, high):
            first = edge(source, i, low, high, -1, {*COMPARISONS, *ARITHMETIC})
            last = edge(source, i, low, high, 1, {*COMPARISONS, *ARITHMETIC})
            whole = edge(source, i, low, high, -1, COMPARISONS), edge(source, i, low, high, 1, COMPARISONS)
            if (first, last) == whole and first < i < last:
                yield first, last, f"{source.written(i + 1, last)} {tokens[i].text} {source.written(first, i - 1)}"


def branches(source, low, high):
    """A branch that is never taken, or always."""
    tokens = source.tokens
    for i in range(low, high):
        word = tokens[i].text
        if word not in ("if", "elif", "while") or tokens[i].kind != "name":
            continue
        if source.language == "c":
            if tokens[i + 1].text != "(" or tokens[i + 1].mate < 0:
                continue
            first, last = i + 2, tokens[i + 1].mate - 1
        else:
            first = last = i + 1
            ends = {":"} if i == low else {"else"}
            while last < high and not (tokens[last + 1].text in ends and tokens[last + 1].depth == tokens[i].depth):
                last += 1
        yield first, last, "0"
        if word != "while":
            yield first, last, "1"


def strides(source, low, high):
    """A stride that belongs to another array, or one element more."""
    tokens = source.tokens
    for i in range(low, high + 1):
        name = tokens[i].text
        if tokens[i].kind != "name" or not STRIDE.search(name):
            continue
        after = tokens[i + 1].text if i < high else ""
        if after in ASSIGNMENTS or after in ("(", "[", "++", "--"):
            continue
        first = i
        while first > low and (tokens[first - 1].text in (".", "->") or tokens[first].text in (".", "->")):
            first -= 1
        if first > low and tokens[first - 1].text in ("&", "*") and not is_binary(source, first - 1, low, high):
            continue
        written = source.written(first, i)
        yield first, i, f"{written} + 1"
        for other in sorted(set(re.findall(r"\b\w+_" + re.escape(name.split("_")[-1]) + r"\b", source.text)) - {name}):
            if "_" in name and other.split("_")[1:] == name.split("_")[1:]:
                yield first, i, written.removesuffix(name) + other


def statements(source, low, high):
    """A call, or a change of what is there, that is left out."""
    tokens = source.tokens
    first = tokens[low]
    if first.kind != "name" or first.text in KEYWORDS - {"break", "continue"} or not is_statement(source, low):
        return
    call = tokens[low + 1].text == "(" and tokens[low + 1].mate == high if low < high else False
    depth = first.depth
    signs = [i for i in range(low, high + 1) if tokens[i].text in ASSIGNMENTS and tokens[i].depth == depth]
    declared = low < high and tokens[low + 1].kind == "name"
    target = {t.text for t in tokens[low : signs[0]]} if signs else set()
    change = signs and not declared and (tokens[signs[0]].text != "=" or target & {".", "->", "["})
    if call or change or first.text in ("break", "continue"):
        yield low, high, None


RULES = {
    "operator": operators,
    "comparison": comparisons,
    "bound": bounds,
    "constant": constants,
    "index": indices,
    "compensation": compensations,
    "swap": swaps,
    "branch": branches,
    "stride": strides,
    "statement": statements,
}


def changes_of(root, file):
    """Every change that the rules find in a file."""
    source = Source(root, file)
    for function, low, high in source.bodies:
        for name, rule in RULES.items():
            for first, last, wrong in rule(source, low, high):
                start = source.tokens[first].start
                yield Change(
                    rule=name,
                    file=file,
                    line=source.line_of(start),
                    function=function,
                    start=start,
                    end=source.end_of(last),
                    right=source.written(first, last),
                    wrong=", ".join(wrong) if isinstance(wrong, tuple) else wrong or "",
                    kind=kind_of(name, wrong),
                )


def kind_of(rule, wrong):
    if wrong is None:
        return "statement"
    return "pair" if isinstance(wrong, tuple) else "branch" if rule == "branch" else "expression"


def switched(change, language, text):
    """The text with what is right and what is wrong, chosen between at run time."""

    def chosen(wrong, right):
        if language == "cython":
            return f"(({wrong}) if {switch} else ({right}))"
        return f"({switch} ? ({wrong}) : ({right}))"

    switch = f"csm_mutant_is({change.number})"
    if change.kind == "statement":
        return f"if not {switch}: {text}" if language == "cython" else f"if (!{switch}) {text}"
    if change.kind == "branch":
        no, both, either = ("not ", "and", "or") if language == "cython" else ("!", "&&", "||")
        return f"({switch} {either} ({text}))" if change.wrong == "1" else f"({no}{switch} {both} ({text}))"
    if change.kind == "pair":
        first, second = split_pair(change)
        return f"{chosen(second, first)}, {chosen(first, second)}"
    return chosen(change.wrong, text)


def split_pair(change):
    """The two arguments as they stand: `right` is "a, b" and `wrong` is "b, a"."""
    for cut in (m.start() for m in re.finditer(", *", change.right)):
        first, second = change.right[:cut], change.right[cut + 1 :].strip()
        if f"{second}, {first}" == change.wrong:
            return first, second
    raise ValueError(f"{change.right!r} is no pair of arguments")
