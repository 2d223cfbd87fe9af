"""What all tests share: see tests/support/fixtures.py."""

from fixtures import _raise_what_is_swallowed  # noqa: F401 - a fixture; importing it also sets hypothesis up
