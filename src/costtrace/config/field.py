"""How a setting is declared: a field with what the documentation says about it."""

from typing import Any

from pydantic import Field


def setting(
    default: Any,  # noqa: ANN401 - as above
    *,
    group: str,
    about: str,
    unit: str = "",
    example: str = "",
    **constraints: Any,  # noqa: ANN401 - pydantic's own
) -> Any:  # noqa: ANN401 - as pydantic's own `Field`: the annotation in front of it says the type
    """Make a field that carries what the documentation says about it."""
    extra: dict[str, Any] = {"group": group, "unit": unit, "example": example}
    return Field(default, description=about, json_schema_extra=extra, **constraints)
