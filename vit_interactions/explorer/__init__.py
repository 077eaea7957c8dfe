"""The patch explorer: a page on which a photograph's patches are pointed at, and what they interact with lights up."""

from vit_interactions.explorer.explorer import ExplorerPage as ExplorerPage
from vit_interactions.explorer.explorer import explorer as explorer
