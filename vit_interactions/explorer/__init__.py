"""The patch explorer: an HTML page that shows the interactions of the patch under the pointer."""

from vit_interactions.explorer.explorer import ExplorerPage as ExplorerPage
from vit_interactions.explorer.explorer import explorer as explorer
