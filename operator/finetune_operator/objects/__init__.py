"""Pure: the Kubernetes objects of which a job consists."""
