"""Files named for tenants: no name from a client can leave the folder, hide, or replace another's file."""

import hashlib
import re

_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_OTHER = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


def safe_name(name: str) -> str:
    """*name* as a part of a file's name, on any file system.

    A plain name (lower-case ASCII letters, digits, ``._-``) stays as it is. Any other is made readable and gets ``~``
    and a hash of it: no plain name has a ``~``, so no two names meet, not even where case does not count.
    """
    if _PLAIN.fullmatch(name) and ".." not in name:
        return name
    readable = _OTHER.sub("_", name).strip("._-")[:40] or "tenant"
    return f"{readable}~{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"
