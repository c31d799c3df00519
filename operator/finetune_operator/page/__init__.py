"""The operator's page: FineTuneJobs in a browser, for whoever may forward a port to the operator's pod. Read-only."""
