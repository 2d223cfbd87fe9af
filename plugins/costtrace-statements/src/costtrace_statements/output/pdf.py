"""Documents as PDF, with reportlab: A4, headings repeated on each page, page numbers.

The built-in fonts hold Western European characters only; others are shown as their escapes, as on a terminal that
cannot show them. HTML holds them all.
"""

import io
from html import escape
from typing import Any

from costtrace.core.errors import CosttraceError
from costtrace.reports.output.render import clean
from costtrace.reports.output.tables import Line, Table
from costtrace_statements.output.document import Document


def as_pdf(document: Document) -> bytes:
    """The document as one PDF file. Raises: CosttraceError."""
    try:
        from reportlab.lib.pagesizes import A4, landscape  # noqa: PLC0415 - an extra
        from reportlab.lib.styles import ParagraphStyle  # noqa: PLC0415 - an extra
        from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer  # noqa: PLC0415 - an extra
    except ImportError as error:
        line = "pip install './plugins/costtrace-statements[reports]'"
        raise CosttraceError(f"PDF needs reportlab. In a checkout of costtrace: {line}") from error
    out = io.BytesIO()
    base = ParagraphStyle("text", fontName="Helvetica", fontSize=8, leading=11)
    title = ParagraphStyle("title", base, fontName="Helvetica-Bold", fontSize=16, leading=20)
    heading = ParagraphStyle("heading", base, fontName="Helvetica-Bold", fontSize=10, spaceBefore=9, spaceAfter=3)
    heading.keepWithNext = 1
    story: list[Any] = [
        Paragraph(_text(document.title), title),
        Paragraph(_text(document.subtitle), base),
        Spacer(1, 6),
    ]
    story += [Paragraph(f"<b>{_text(name)}</b>: {_text(value)}", base) for name, value in document.facts]
    for table in document.tables:
        if table.lines:
            story += [Paragraph(_text(table.title), heading), _grid(table, base)]
            story += [Paragraph(_text(note), base) for note in table.notes]
    story += [Spacer(1, 6), *(Paragraph(_text(note), base) for note in document.notes)]
    frame = SimpleDocTemplate(
        out, pagesize=landscape(A4), leftMargin=34, rightMargin=34, topMargin=34, bottomMargin=34,
        title=_plain(document.title), subject=_plain(document.subtitle), author="costtrace", invariant=1,
    )  # fmt: skip
    frame.build(story, onFirstPage=_page, onLaterPages=_page)
    return out.getvalue()


def _grid(table: Table[Line], base: Any) -> Any:
    from reportlab.lib import colors  # noqa: PLC0415 - an extra
    from reportlab.lib.styles import ParagraphStyle  # noqa: PLC0415 - an extra
    from reportlab.platypus import LongTable, Paragraph  # noqa: PLC0415 - an extra

    right = ParagraphStyle("right", base, alignment=2)
    bold, bold_right = (ParagraphStyle(f"b{s.name}", s, fontName="Helvetica-Bold") for s in (base, right))

    def style(column: int, *, strong: bool) -> Any:
        if table.columns[column].right:
            return bold_right if strong else right
        return bold if strong else base

    cells = [[Paragraph(_text(column.heading), style(n, strong=True)) for n, column in enumerate(table.columns)]]
    rules = [("LINEBELOW", (0, 0), (-1, 0), 0.8, colors.black), ("LINEBELOW", (0, 1), (-1, -1), 0.25, colors.lightgrey)]
    for number, line in enumerate(table.lines, 1):
        strong = table.is_total(line)
        cells.append(
            [Paragraph(_text(column.show(line)), style(n, strong=strong)) for n, column in enumerate(table.columns)]
        )
        if strong:
            rules.append(("LINEABOVE", (0, number), (-1, number), 0.8, colors.black))
    padding = [
        ("TOPPADDING", (0, 0), (-1, -1), 1.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ]
    sizes = [1 if column.right else 2 for column in table.columns]
    widths = [774 * size / sum(sizes) for size in sizes]
    return LongTable(cells, colWidths=widths, repeatRows=1, style=[*rules, *padding])


def _page(canvas: Any, frame: Any) -> None:
    canvas.saveState()
    canvas.setFont("Helvetica", 7)
    canvas.drawString(34, 20, frame.title)
    canvas.drawRightString(frame.pagesize[0] - 34, 20, f"page {canvas.getPageNumber()}")
    canvas.restoreState()


def _plain(value: str) -> str:
    return clean(value).encode("cp1252", "backslashreplace").decode("cp1252")


def _text(value: str) -> str:
    """*value* escaped: reportlab reads paragraphs as markup, and a name may hold some."""
    return escape(_plain(value))
