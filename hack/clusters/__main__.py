"""`python -m clusters` is `hack/cluster`."""

from clusters.cli import main

main()
