"""The container images: named by their content, built when that has changed, by Docker or buildah."""
