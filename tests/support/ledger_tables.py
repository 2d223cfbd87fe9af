"""What a ledger holds, as values that can be compared, and whether it adds up."""

from collections import Counter

from balance import books_in, check, table


def rows(home):
    """The bill as a multiset of rows, without the numbers that only say in which order rows were written."""
    counted = Counter()
    for name, number in (("posting", "posting_id"), ("usage", "usage_id"), ("meter", ""), ("engine", ""), ("rate", "")):
        for row in table(home, name):
            row.pop(number, None)
            counted[name, *row.items()] += 1
    return counted


def check_settled(home):
    """Everything adds up, every journal is booked to its end, and nothing is kept for an engine that has ended."""
    check(books_in(home))
    assert all(position["done"] == 1 for position in table(home, "position"))
    assert not [state["name"] for state in table(home, "state") if state["name"].startswith("engine:")]
