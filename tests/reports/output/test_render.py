"""What is printed is safe for terminals and spreadsheets, exact for programs, and aligned for people."""

import csv
import io
import json
import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from costtrace.reports.output.render import FORMATS, as_csv, as_json, as_text, clean, render, safe_text
from costtrace.reports.output.row_tables import Column, count, row_table, text

NASTY = [
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "a\rb",
    "a\nb",
    "\x9b31m",
    "\u202egnp.exe",
    "\x7f",
    "\u2028",
    "\u200b",
    "\ud800",
]
FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff201",
    " =1",
    "=cmd|' /C calc'!A0",
]


def table(*names):
    rows = [
        {"tenant": name, "gpu_ns": place, "cost_nano": -place, "price": Decimal("0.10")}
        for place, name in enumerate(names)
    ]
    columns = (text("tenant", "tenant"), count("GPU ns", "gpu_ns"), Column("price", lambda row: f"{row['price']}"))
    return row_table("rows", "Rows", columns, rows)


def steers(printed):
    return [
        char
        for char in printed.replace("\n", "").replace("\r", "")
        if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    ]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NASTY)
def test_nothing_that_steers_a_terminal_gets_through(form, name):
    printed = render([table(name)], form)
    assert not steers(printed)
    assert "\r" not in printed.replace("\r\n", "\n")


def test_titles_and_notes_steer_nothing_either():
    assert not steers(as_text(table("a")._replace(title="\x1b[2J", notes=["\x07"])))


@given(st.text())
def test_no_text_gets_through_that_steers_or_breaks_a_line(name):
    assert not steers(clean(name))
    assert clean(name).splitlines() in ([], [clean(name)])


@pytest.mark.parametrize("name", ["acme", "Zürich", "東京", "a b", "日本語テナント", "naïve", "x=1", "a-b"])
def test_ordinary_names_stay_as_they_are(name):
    assert clean(name) == name
    assert safe_text(name) == name


@pytest.mark.parametrize("name", FORMULAS)
def test_no_spreadsheet_takes_a_name_for_a_formula(name):
    (row,) = list(csv.DictReader(io.StringIO(as_csv(table(name)))))
    assert row["tenant"].startswith("'")


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_name_cannot_make_cells_or_lines_of_its_own(one, other):
    rows = list(csv.reader(io.StringIO(as_csv(table(one, other)))))
    assert [len(row) for row in rows] == [4, 4, 4]
    assert not any(row[0].lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows[1:])


def test_numbers_in_csv_are_numbers_and_unknown_is_empty():
    rows = [{"gpu_ns": -5, "cost_nano": None, "price": Decimal("1E-9"), "idle": False}]
    assert as_csv(row_table("x", "x", (), rows)) == "gpu_ns,cost_nano,price,idle\r\n-5,,0.000000001,false\r\n"


def test_an_empty_csv_still_has_its_header():
    assert as_csv(row_table("x", "x", (), [], fields=("a", "b"))) == "a,b\r\n"


def test_json_holds_exact_integers_and_money_as_a_decimal_string():
    rows = [{"cost_nano": 2**62 + 1, "gpu_ns": 2**62 + 1}, {"cost_nano": None, "gpu_ns": 0}]
    parsed = json.loads(as_json([row_table("x", "x", (), rows)]))["x"]
    assert parsed[0] == {"cost_nano": 2**62 + 1, "cost": "4611686018.427387905", "gpu_ns": 2**62 + 1}
    assert parsed[1]["cost"] is None


def test_a_second_view_of_the_same_rows_is_for_people_only():
    tables = [table("a"), table("a")._replace(name="again", view=True)]
    assert list(json.loads(as_json(tables))) == ["rows"]
    assert render(tables, "table").count("Rows") == 2


def test_columns_are_aligned_whatever_the_width_of_the_characters():
    lines = as_text(table("acme", "東京", "e\u0301té", "\x1b[31m")).splitlines()[2:]
    assert {cell_len(line) for line in lines} == {cell_len(lines[1])}


def test_markup_is_only_text():
    assert "[red]x[/red]" in as_text(table("[red]x[/red]"))
