"""The figures of the patch-interaction paper for any image: as matplotlib figures, or drawn on your own axes."""

from vit_interactions.figures.canvas import draw_image as draw_image
from vit_interactions.figures.canvas import mark_patch as mark_patch
from vit_interactions.figures.curve import draw_curve as draw_curve
from vit_interactions.figures.features import pca_figure as pca_figure
from vit_interactions.figures.features import similarity_figure as similarity_figure
from vit_interactions.figures.field import draw_field as draw_field
from vit_interactions.figures.field import draw_field_legend as draw_field_legend
from vit_interactions.figures.field import draw_interactions as draw_interactions
from vit_interactions.figures.frames import frames_figure as frames_figure
from vit_interactions.figures.frames import save_animation as save_animation
from vit_interactions.figures.overlay import draw_map as draw_map
from vit_interactions.figures.pairs import draw_column_variances as draw_column_variances
from vit_interactions.figures.pairs import draw_dropped as draw_dropped
from vit_interactions.figures.pairs import draw_pairs as draw_pairs
from vit_interactions.figures.selection import choose_patches as choose_patches
from vit_interactions.figures.sheets import curve_figure as curve_figure
from vit_interactions.figures.sheets import field_figure as field_figure
from vit_interactions.figures.sheets import indiscriminative_figure as indiscriminative_figure
from vit_interactions.figures.sheets import interaction_figure as interaction_figure
from vit_interactions.figures.sheets import map_figure as map_figure
from vit_interactions.figures.sinks import mark_sinks as mark_sinks
from vit_interactions.figures.tendency import draw_color_wheel as draw_color_wheel
from vit_interactions.figures.tendency import draw_field_size as draw_field_size
from vit_interactions.figures.tendency import draw_tendency_arrows as draw_tendency_arrows
from vit_interactions.figures.tendency import draw_tendency_flow as draw_tendency_flow
from vit_interactions.figures.windows_by_layer import draw_window as draw_window
from vit_interactions.figures.windows_by_layer import windows_figure as windows_figure
from vit_interactions.images.placement import Placement as Placement
from vit_interactions.images.placement import place as place
from vit_interactions.images.prepared import PreparedImage as PreparedImage
from vit_interactions.images.prepared import prepare as prepare
from vit_interactions.images.prepared import preprocessing as preprocessing
from vit_interactions.images.reading import read_image as load_photograph  # noqa: F401  # its former name
