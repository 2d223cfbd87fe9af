"""The tenants file (YAML): where each tenant is in the organisation. Only reports read it; no bill depends on it.

tenants:
  - name: acme-search
    organisation: acme
    team: search            # all but the name are optional
    project: ranking
    cost_centre: "4711"
    labels: {environment: production}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from costtrace.config.yaml_fields import Fields
from costtrace.config.yaml_file import load_mapping
from costtrace.core.errors import ConfigError, PriceBookError

LEVELS = ("organisation", "team", "project", "cost_centre")
"""What a report can group by besides the tenant."""
MOST_LABELS = 32


class Tenant(NamedTuple):
    """A tenant's place."""

    name: str
    organisation: str = ""
    team: str = ""
    project: str = ""
    cost_centre: str = ""
    labels: Mapping[str, str] = {}


def load_tenants(path: Path) -> dict[str, Tenant]:
    """All tenants of the file, by name. Raises: ConfigError."""
    raw = load_mapping(path, ConfigError, "the tenants file")
    tenants: dict[str, Tenant] = {}
    try:
        for fields in Fields(raw, str(path), ("tenants",)).entries("tenants", (*Tenant._fields,)):
            name = fields.text("name", "the tenant's name, as in: name: acme")
            if name in tenants:
                raise fields.wrong("name", "is there twice")
            organisation, team, project, cost_centre = (fields.text(level) for level in LEVELS)
            tenants[name] = Tenant(name, organisation, team, project, cost_centre, _labels(fields))
    except PriceBookError as error:
        raise ConfigError(str(error)) from error
    return tenants


def _labels(fields: Fields) -> dict[str, str]:
    labels = fields.texts("labels")
    if len(labels) > MOST_LABELS:
        raise fields.wrong("labels", f"has more than {MOST_LABELS} labels")
    return labels
