"""The development cluster behind `hack/cluster` and the API server behind the tests."""
