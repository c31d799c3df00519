"""Programs that a cluster may have beside those of Kubernetes: each runs as a process, and is gone with its user."""
