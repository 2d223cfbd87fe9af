"""Hypothesis strategies for what parsers must survive: a valid document with some of it replaced, and raw bytes."""

import copy
import json
import math

from hypothesis import strategies as st

NASTY = [
    None,
    True,
    "",
    "nan",
    "inf",
    math.nan,
    math.inf,
    -1,
    0,
    0.5,
    2**63,
    -(2**63) - 1,
    10**30,
    "-1",
    "1,5",
    "1_0",
    "012",
    "1:30",
    "1e999999999",
    "1e-999999",
    "\udc80",
    "a\0b",
    "\uff11",
    "=1+1",
    "../x",
    [],
    {},
    [[[]]],
    {"a": {"a": []}},
    "x" * 5_000,
]
"""Values that a careful reader of JSON, YAML or CSV has an answer to."""

_WEDGES = [
    b"\n",
    b"\r",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff",
    b",",
    b'"',
    b"{",
    b"[",
    b"]",
    b"&a ",
    b"*a ",
    b"!!int ",
    b"0",
    b"-",
    b"#",
]


def _places(node, path=()):
    yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _places(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _places(value, (*path, index))


def _change(document, path, draw):
    """Replace, drop or rename what lies at *path* in *document*, which is changed."""
    if not path:
        return copy.deepcopy(draw(st.sampled_from(NASTY)))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    what = draw(st.sampled_from(["replace", "replace", "drop", "double"]))
    if what == "replace":
        parent[path[-1]] = copy.deepcopy(draw(st.sampled_from(NASTY)))
    elif what == "drop":
        del parent[path[-1]]
    elif isinstance(parent, list):
        parent.append(copy.deepcopy(parent[path[-1]]))
    else:
        parent[draw(st.sampled_from(["", "x", "per_kwh", "\0", "1"]))] = copy.deepcopy(parent[path[-1]])
    return document


@st.composite
def documents(draw, *seeds):
    """One of *seeds* (dicts and lists) with one to four of its nodes changed."""
    document = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        document = _change(document, draw(st.sampled_from(list(_places(document)))), draw)
    return document


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """*data* with some bytes cut out, flipped or put in."""
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from(["cut", "flip", "wedge", "repeat"]))
        if what == "cut":
            data = data[:at] + data[at + draw(st.integers(1, 40)) :]
        elif what == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
        elif what == "repeat":
            data = data[:at] + data[at : at + draw(st.integers(1, 200))] * 2 + data[at:]
        else:
            data = data[:at] + draw(st.sampled_from(_WEDGES)) + data[at:]
    return data


def as_json(document) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")


@st.composite
def json_files(draw, *seeds) -> bytes:
    """A JSON file: one of *seeds*, changed in its nodes, in its bytes, or both."""
    text = as_json(draw(documents(*seeds)))
    return draw(st.one_of(st.just(text), damaged(text)))


@st.composite
def json_lines(draw, *seeds) -> bytes:
    """A file of JSON lines: some of *seeds* (one a line), changed as in `json_files`."""
    lines = [as_json(draw(documents(*seeds))) for _ in range(draw(st.integers(1, 5)))]
    text = b"\n".join(lines) + b"\n"
    return draw(st.one_of(st.just(text), damaged(text)))


@st.composite
def csv_files(draw, header, *rows) -> bytes:
    """A CSV file with *header* and some of *rows*, cells changed, one too many or too few now and then."""
    out = [",".join(header)]
    for _ in range(draw(st.integers(0, 5))):
        row = [str(cell) for cell in draw(st.sampled_from(rows))]
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(row) - 1))
            row[at] = str(draw(st.sampled_from(NASTY)))
        if draw(st.integers(0, 9)) == 0:
            row = row[:-1] if draw(st.booleans()) else [*row, "5"]
        out.append(",".join(row))
    text = ("\n".join(out) + "\n").encode(errors="surrogateescape")
    return draw(st.one_of(st.just(text), damaged(text)))
