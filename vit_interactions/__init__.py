"""Explanations of how the patches of a Vision Transformer interact."""

import sys
from importlib.metadata import version as _version

import lazy_loader as _lazy

# captum, scipy and matplotlib take longer to import than all of this package.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

__version__ = _version("vit_interactions")

# The command line needs no models to print help.
if "vit_interactions_cli" not in sys.modules:
    from vit_interactions import models as models  # registers them with timm
