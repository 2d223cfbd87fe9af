"""What may be the name of a tenant, of a header, of a network; and the defaults of the settings about them."""

import ipaddress

DEFAULT_TENANT = "default"
DEFAULT_HEADERS = ("x-costtrace-tenant", "x-llm-d-tenant-id")
DEFAULT_TRUSTED_PEERS = ("127.0.0.0/8", "::1/128")
MAX_LENGTH = 128
"""Longest tenant name, in characters."""
RESERVED_PREFIX = "__"
"""Names that begin so are costtrace's own rows (``__other__``): no tenant can have one."""
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def tenant_name(value: bytes, max_length: int = MAX_LENGTH) -> str | None:
    """The tenant's name in a header's value; None where it cannot be one.

    Printable ASCII, not empty, not longer than *max_length*, not one of costtrace's own names.
    """
    value = value.strip(b" \t")
    if not value or len(value) > max_length or not value.isascii():
        return None
    name = value.decode("ascii")
    return name if name.isprintable() and not name.startswith(RESERVED_PREFIX) else None


def header_name(name: str) -> str:
    """*name* as ASGI has it (lower case). Raises: ValueError (no HTTP header can have it)."""
    lower = name.strip().lower()
    if not lower or not _TOKEN.issuperset(lower):
        raise ValueError(f"{name!r} is not the name of an HTTP header. Example: x-costtrace-tenant")
    return lower


def network(text: str) -> Network:
    """Read an address or network in CIDR notation. Raises: ValueError."""
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not an address or network: {error}. Examples: 10.1.2.3, 10.0.0.0/8, fd00::/8"
        ) from error
