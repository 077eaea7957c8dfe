"""Compare what `vi.probe` observes in timm's architectures with what they declare, in one table.

python tests/benchmarks/families.py            # all of them, a few minutes on one core
python tests/benchmarks/families.py cait deit  # the models of these timm modules

Each model has random weights, three layers if its depth can be set, and the first image size that it accepts.
The run fails if a timm module is neither listed nor known to have no attention.
"""

import sys
import textwrap
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import nn

import vit_interactions as vi
from vit_interactions.attention.declared import declared_layout

# In this order. The first is not square, so that swapped rows and columns do not go unnoticed.
SIZES = ((96, 128), (128, 128), (160, 160), (224, 224), (240, 240), (256, 256), (384, 384))
DEPTH = 3

# The smallest model of each timm module with attention or another exchange among tokens, and of each variant in it.
FAMILIES = {
    "beit": ("beit_base_patch16_224", "beitv2_base_patch16_224"),
    "byoanet": ("botnet26t_256", "halonet26t", "lambda_resnet26t"),
    "byobnet": ("resnet50_clip",),
    "cait": ("cait_xxs24_224",),
    "coat": ("coat_tiny", "coat_lite_tiny"),
    "convit": ("convit_tiny",),
    "cpubone": ("cpubone_nano",),
    "crossvit": ("crossvit_tiny_240",),
    "csatv2": ("csatv2",),
    "davit": ("davit_tiny",),
    "deepseek_vit": ("deepseek_vit_412m", "deepseek_vit_412m_enc"),
    "deit": ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"),
    "edgenext": ("edgenext_xx_small",),
    "efficientformer": ("efficientformer_l1",),
    "efficientformer_v2": ("efficientformerv2_s0",),
    "efficientvim": ("efficientvim_m1",),
    "efficientvit_mit": ("efficientvit_b0", "efficientvit_l1"),
    "efficientvit_msra": ("efficientvit_m0",),
    "eva": (
        "vit_tiny_patch16_dinov3_qkvb",
        "vit_small_patch16_dinov3",
        "eva02_tiny_patch14_224",
        "eva02_base_patch16_clip_224",
        "vit_pe_core_tiny_patch16_384",
        "vit_pe_spatial_tiny_patch16_512",
        "vit_pe_lang_large_patch14_448",
        "vit_small_patch16_rope_224",
        "vit_small_patch16_rope_mixed_ape_224",
        "vit_medium_patch16_rope_reg1_gap_256",
        "vit_small_patch16_lingbot",
        "vit_base_patch16_sapiens2",
    ),
    "fastvit": ("fastvit_sa12",),
    "focalnet": ("focalnet_tiny_srf",),
    "gcvit": ("gcvit_xxtiny",),
    "gemma4_vit": ("gemma4_vit_167m", "gemma4_vit_167m_enc"),
    "hiera": ("hiera_tiny_224",),
    "hieradet_sam2": ("sam2_hiera_tiny",),
    "iformer": ("iformer_t",),
    "levit": ("levit_128s", "levit_conv_128s"),
    "lowformer": ("lowformer_b0",),
    "maxxvit": ("test_maxvit", "test_coatnet", "maxxvit_rmlp_nano_rw_256"),
    "metaformer": ("caformer_s18", "poolformer_s12"),
    "mlp_mixer": ("mixer_s32_224", "gmlp_ti16_224", "gmixer_12_224", "resmlp_12_224"),
    "mobilenetv3": ("mobilenetv4_hybrid_medium",),
    "mobilenetv5": ("mobilenetv5_base",),
    "mobilevit": ("mobilevit_xxs", "mobilevitv2_050"),
    "mvitv2": ("mvitv2_tiny", "mvitv2_small_cls"),
    "naflexvit": (
        "naflexvit_base_patch16_gap",
        "naflexvit_base_patch16_par_gap",
        "naflexvit_base_patch16_parfac_gap",
        "naflexvit_base_patch16_map",
        "naflexvit_base_patch16_siglip",
        "naflexvit_base_patch16_radio_v3",
    ),
    "nest": ("nest_tiny",),
    "nextvit": ("nextvit_small",),
    "pit": ("pit_ti_224", "pit_ti_distilled_224"),
    "pvt_v2": ("pvt_v2_b0", "pvt_v2_b2_li"),
    "qwen3_vit": ("qwen3_vit_88m", "qwen3_vit_88m_enc", "qwen3_vit_88m_merge"),
    "repvit": ("repvit_m1",),
    "sequencer": ("sequencer2d_s",),
    "shvit": ("shvit_s1",),
    "swiftformer": ("swiftformer_xs",),
    "swin_transformer": ("swin_tiny_patch4_window7_224",),
    "swin_transformer_v2": ("swinv2_tiny_window8_256",),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224",),
    "tiny_vit": ("tiny_vit_5m_224",),
    "tnt": ("tnt_s_patch16_224", "tnt_s_legacy_patch16_224"),
    "twins": ("twins_svt_small", "twins_pcpvt_small"),
    "visformer": ("visformer_tiny",),
    "vision_transformer": (
        "test_vit",
        "test_vit2",
        "test_vit3",
        "test_vit4",
        "vit_tiny_patch16_224",
        "vit_small_patch32_224",
        "vit_small_patch16_18x2_224",
        "vit_small_patch16_36x1_224",
        "vit_xsmall_patch16_clip_224",
        "vit_base_patch32_clip_quickgelu_224",
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_siglip_gap_224",
        "vit_small_patch14_dinov2",
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch14_reg1_tipsv2",
        "vit_medium_patch16_gap_240",
        "vit_medium_patch16_reg4_gap_256",
        "vit_so150m_patch16_reg4_map_256",
        "vit_base_patch16_rpn_224",
        "vit_base_patch16_xp_224",
        "vit_base_patch16_radio_v3",
        "vit_wee_patch16_reg1_gap_256",
        "vit_pwee_patch16_reg1_gap_256",
        "vit_dwee_patch16_reg1_gap_256",
        "vit_dpwee_patch16_reg1_gap_256",
        "flexivit_small",
        "beit3_base_patch16_224",
        "eva_large_patch14_196",
        "aimv2_large_patch14_224",
        "vit_intern300m_patch14_448",
    ),
    "vision_transformer_hybrid": (
        "vit_tiny_r_s16_p8_224",
        "vit_small_r26_s32_224",
        "vit_small_resnet26d_224",
        "vit_base_mci_224",
    ),
    "vision_transformer_relpos": (
        "test_vit_relpos",
        "vit_relpos_small_patch16_rpn_224",
        "vit_relpos_medium_patch16_cls_224",
        "vit_relpos_base_patch16_clsgap_224",
        "vit_srelpos_small_patch16_224",
    ),
    "vision_transformer_sam": ("samvit_base_patch16_224",),
    "vitamin": ("vitamin_small_224",),
    "volo": ("volo_d1_224",),
    "xcit": ("xcit_nano_12_p16_224",),
}

# Modules whose models have neither attention nor a product of tokens with tokens.
CONVOLUTIONS = """
convmixer convnext cspnet cspnext densenet dla dpn efficientnet fasternet ghostnet hardcorenas hgnet hrnet
inception_next inception_resnet_v2 inception_v3 inception_v4 lcnetv2 mambaout nasnet nfnet pnasnet rdnet regnet
repghost res2net resnest resnet resnetv2 rexnet selecsls senet sknet starnet tresnet vgg vovnet xception
xception_aligned
"""
OWN = {"adaptive_window", "mini", "winft"}  # modules that this package registers

VERDICTS = {True: "equal", False: "**different**", None: "handled"}


@dataclass(frozen=True)
class Row:
    """The verdict on one family.

    Attributes:
        module: the timm module.
        model: the model's name.
        size: (height, width) of the image in pixels.
        observed: the probe as text, or its error message.
        declared: the layout from the model's attributes, "" if it declares none.
        verdict: "equal", "handled" (nothing is declared), "unsupported", or "**different**".
    """

    module: str
    model: str
    size: tuple[int, int]
    observed: str
    declared: str
    verdict: str


def build(name: str, size: tuple[int, int]) -> nn.Module:
    """Create the shallowest possible model for an image size, always with the same weights."""
    error: Exception | None = None
    for options in ({"img_size": size, "depth": DEPTH}, {"img_size": size}, {"depth": DEPTH}, {}):
        torch.manual_seed(0)
        try:
            model: nn.Module = timm.create_model(name, **options)
        except Exception as exception:  # each model raises its own type of error for unknown options
            error = exception
        else:
            return model.eval()
    raise ValueError(f"{name} cannot be built for {size}") from error


def examine(module: str, name: str) -> Row:
    """Probe one model with the first image size that it accepts, and compare with its declaration."""
    reason = ""
    for size in SIZES:
        try:
            return _row(module, build(name, size), name, size)
        except vi.UnsupportedModelError as exception:
            return Row(module, name, size, str(exception), "", "unsupported")
        except ValueError as exception:  # another size may work
            reason = str(exception)
    raise ValueError(f"{name} accepts none of the image sizes {SIZES}: {reason}")


def _row(module: str, model: nn.Module, name: str, size: tuple[int, int]) -> Row:
    with warnings.catch_warnings():
        warnings.simplefilter("error", vi.UnprobedModelWarning)
        found = vi.probe(model, size)
    try:
        declared: Any = declared_layout(model, size)
    except (ValueError, TypeError):
        declared = None
    equal = None if declared is None else _comparable(found.layout) == _comparable(declared)
    return Row(module, name, size, str(found), str(declared or ""), VERDICTS[equal])


def _comparable(layout: vi.TokenLayout) -> vi.TokenLayout:
    """Drop what attributes cannot declare: the order of tokens, and which tokens a pooling head attends to."""
    return replace(layout, order=None, pool_prefix=layout.pool_prefix and layout.readout != "map")


def unlisted() -> list[str]:
    """Return the modules of the installed timm that are missing in this file."""
    return sorted(set(timm.list_modules()) - FAMILIES.keys() - set(CONVOLUTIONS.split()) - OWN)


def table(rows: list[Row]) -> str:
    """Format rows as a Markdown table."""
    lines = ["| family | model | image | probe | declared | verdict |", "| --- " * 6 + "|"]
    for row in rows:
        declared = "the same" if row.verdict == "equal" else row.declared or "–"
        unsupported = row.verdict == "unsupported"
        observed = textwrap.shorten(row.observed, 160, placeholder=" ...") if unsupported else row.observed
        size = f"{row.size[0]} x {row.size[1]}"
        lines.append(f"| {row.module} | `{row.model}` | {size} | {observed} | {declared} | {row.verdict} |")
    return "\n".join(lines)


def main(modules: list[str]) -> None:
    """Print the table of all modules, or of the given ones."""
    if missing := unlisted():
        raise SystemExit(f"timm has modules that are not listed: {', '.join(missing)}")
    rows = []
    for module in modules or FAMILIES:
        for name in FAMILIES[module]:
            rows.append(examine(module, name))
            print(".", end="", file=sys.stderr, flush=True)
    print(table(rows))
    counts = Counter(row.verdict for row in rows)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (*VERDICTS.values(), "unsupported"))
    print(f"\n{len(rows)} models of {len({row.module for row in rows})} modules: {summary}.")


if __name__ == "__main__":
    main(sys.argv[1:])
