"""The columns that costtrace fills of FOCUS 1.4, dataset Cost and Usage; its own (``x_``) come last. Pure."""

from costtrace.reports.output.tables import Value

COLUMNS = (
    "AllocatedMethodDetails", "AllocatedMethodId", "AllocatedResourceId", "AllocatedResourceName", "AllocatedTags",
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost", "HostProviderName",
    "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ResourceId", "ResourceName", "ResourceType",
    "ServiceCategory", "ServiceName", "ServiceProviderName", "ServiceSubcategory", "SkuId", "SkuMeter", "SubAccountId",
    "SubAccountName", "x_Kind", "x_Model", "x_OriginChargeId", "x_OriginCost", "x_Policy", "x_StatementCost",
    "x_StatementId",
)  # fmt: skip


def blank() -> dict[str, Value]:
    """A row in which every column is null."""
    return dict.fromkeys(COLUMNS)
