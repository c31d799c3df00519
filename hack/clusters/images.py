"""Names of images."""

from __future__ import annotations


def full_reference(image: str) -> str:
    """What the kubelet takes `image` to mean: `demo` is docker.io/library/demo:latest, `localhost/demo:1` itself."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not ("." in first or ":" in first or first == "localhost"):
        image = f"docker.io/{image}"
    if "@" in image or ":" in image.rpartition("/")[2]:
        return image
    return f"{image}:latest"
