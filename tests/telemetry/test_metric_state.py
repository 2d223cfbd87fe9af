"""What the agent's metrics hold beside the totals."""

from otlp_receiver import RATE, engine, record, turn

from costtrace.core import semconv
from costtrace.telemetry.metric_state import MetricState


def test_distributions_fold_tenants_earlier_than_totals_do():
    state = MetricState(tenant_limit=10, histogram_tenants=2)
    state.totals.know([engine()], {RATE[0]: "USD"})
    committed = turn([record(n, tenant=f"t{n}") for n in range(5)])
    state.add(committed.postings, committed.records, committed.meter)

    counts = {labels[0]: sum(d.counts) for labels, d in state.distributions(semconv.H_GPU_TIME)}
    assert counts == {"t0": 1, "t1": 1, semconv.OTHER_TENANT: 3}
