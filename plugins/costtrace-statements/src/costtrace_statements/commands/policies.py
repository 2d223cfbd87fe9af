"""``costtrace policies``: the same period under each idle policy, side by side."""

from pathlib import Path

import click

from costtrace.cli.options import examples, format_option, open_store, out, store_option, zone
from costtrace.reports.output.render import render
from costtrace_statements.commands.billing_options import EXIT_OFF, billing_period, make_policy, policy_options
from costtrace_statements.compare_policies import compare, whatif_tables
from costtrace_statements.idle_policies import POLICIES
from costtrace_statements.query import load
from costtrace_statements.settlement import settle


@click.command(
    short_help="The same period under each idle policy, side by side.",
    epilog=examples(
        "costtrace policies --period 2026-11",
        "costtrace policies --period 2026-11 --quotas quotas.yaml --format csv > what-if.csv",
    ),
)
@click.option("--period", "words", required=True, help="2026-11, 2026-11-23, 2026-Q4 or 2026.")
@policy_options
@click.option("--tz", default="UTC", show_default=True, help="Time zone of the period.")
@format_option
@store_option
def policies(*, words: str, policy: str, share: str, quotas: Path | None, tz: str, form: str, home: Path) -> int:
    """Say what each tenant would pay under each policy, from the same ledger: nothing is written.

    The policies are separate, weighted, even, peak, and reserved where --quotas says what is reserved. --policy names
    the one that the others are compared with. Each column adds up to the same total. Ends with 1 if one does not.
    """
    where = zone(tz)
    names = [name for name in POLICIES if name != "reserved" or quotas is not None]
    make_policy(policy, share, quotas)
    with open_store(home) as store:
        inputs = load(store, billing_period(words, where), where, slots=True)
    settlements = {name: settle(inputs, make_policy(name, share, quotas)) for name in names}
    out(render(whatif_tables(compare(settlements, policy), settlements[policy]), form))
    return EXIT_OFF if any(tie.off for settlement in settlements.values() for tie in settlement.ties) else 0
