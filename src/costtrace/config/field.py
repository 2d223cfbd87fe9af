"""How a setting is declared: a pydantic field with what the documentation shows of it."""

from typing import Any

from pydantic import Field


def setting(
    default: Any,  # noqa: ANN401 - the annotation of the setting gives the type
    *,
    group: str,
    about: str,
    unit: str = "",
    example: str = "",
    **constraints: Any,  # noqa: ANN401 - whatever pydantic's `Field` takes
) -> Any:  # noqa: ANN401 - as `Field` itself
    """Make the field. *about*, *unit* and *example* go into `docs/configuration.md` and into error messages."""
    extra: dict[str, Any] = {"group": group, "unit": unit, "example": example}
    return Field(default, description=about, json_schema_extra=extra, **constraints)
