"""Versions of Python and of the packages that results depend on."""

import platform
from importlib.metadata import version

PACKAGES = ("vit_interactions", "torch", "timm", "captum", "grad-cam", "numpy", "matplotlib", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on, by name."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
