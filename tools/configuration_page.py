"""The reference of all settings, `docs/configuration.md`, from the settings themselves."""

from costtrace.config.load import KEYS, PREFIX, WORKER_PREFIX, about, allowed, show
from costtrace.config.settings import GROUPS, Settings


def configuration_markdown() -> str:
    """Write the reference of all settings, as `docs/configuration.md` has it."""
    lines = [HEAD]
    for group, text in GROUPS.items():
        lines += [f"## {group}", "", text, "", "| key | variable | default | unit | what it does | example |"]
        lines.append("| --- | --- | --- | --- | --- | --- |")
        for key in KEYS:
            setting = about(key)
            if setting.group == group:
                default = show(Settings.model_fields[key].default)
                cells = (f"`{key}`", f"`{PREFIX}{key.upper()}`", f"`{default}`" if default else "", setting.unit)
                lines.append(f"| {' | '.join(cells)} | {setting.text} {allowed(key)}| `{setting.example}` |")
        lines.append("")
    return "\n".join(lines)


HEAD = f"""# Configuration

<!-- Generated from src/costtrace/config/settings.py by tools/gen_docs.py: do not edit. -->

A value is taken from the first of these that has one:

1. a flag of the command line;
2. a variable `{PREFIX}<KEY>`, or `{WORKER_PREFIX}<KEY>` (TensorRT-LLM forwards only `TRTLLM_*` to its workers);
3. the YAML file that `{PREFIX}CONFIG` names, with the keys below, unnested;
4. the default.

Lists are written with commas, or as YAML lists; `none` is the empty list. An empty variable counts as not set. A
relative path in the YAML file counts from the directory of that file. A key that does not exist is an error.
A number in it is the decimal number that is written: `060` is 60.
`costtrace doctor` prints every value and where it is from.
"""
