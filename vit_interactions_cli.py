"""The entry point of `vit-interactions`, outside of the package.

Importing the package registers its models with timm, which takes seconds because it imports torch. The package does
not register them while this module is loaded, so that help and usage errors come at once; commands do when they run.
"""

from vit_interactions.cli.main import main as main
