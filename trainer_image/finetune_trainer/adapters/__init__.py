"""Low-rank adapters beside a frozen model."""
