"""How a setting is declared: a pydantic field with what the documentation shows of it."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo


def setting(
    default: Any,  # noqa: ANN401 - the annotation of the setting gives the type
    *,
    group: str,
    about: str,
    unit: str = "",
    example: str = "",
    **constraints: Any,  # noqa: ANN401 - whatever pydantic's `Field` takes
) -> Any:  # noqa: ANN401 - as `Field` itself
    """Make the field. What is said of it goes into `docs/configuration.md`, *example* also into error messages."""
    extra: dict[str, Any] = {"group": group, "unit": unit, "example": example}
    return Field(default, description=about, json_schema_extra=extra, **constraints)


def absolute(path: Path, info: ValidationInfo) -> Path:
    """*path*, counted from the folder that the validation's context has for the setting, else the working directory.

    Raises: ValueError (no file can have this path).
    """
    folder: Path = (info.context or {}).get(info.field_name, Path())
    if "\0" in str(path):
        raise ValueError("a path cannot hold the character NUL")
    try:
        return Path.cwd() / folder / path.expanduser()
    except RuntimeError:
        raise ValueError("no home directory is known for it: write the path out") from None
