"""Test that the probe agrees with the layouts that timm's architectures declare, or raises: see docs/families.md."""

import families
import pytest

import vit_interactions as vi

EQUAL = (
    "test_vit",
    "test_vit2",
    "test_vit3",
    "test_vit4",
    "test_vit_relpos",
    "vit_tiny_patch16_224",
    "vit_tiny_r_s16_p8_224",
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_small_patch14_reg4_dinov2",
    "vit_pe_core_tiny_patch16_384",
    "vit_wee_patch16_reg1_gap_256",
    "vit_pwee_patch16_reg1_gap_256",
    "deit_tiny_distilled_patch16_224",
    "eva02_tiny_patch14_224",
)
UNSUPPORTED = {
    "cait_xxs24_224": r"blocks\.0\.attn.*softmax",
    "coat_lite_tiny": r"factoratt_crpe.*softmax",
    "convit_tiny": r"blocks\.0\.attn.*softmax",
    "cpubone_nano": r"pooled tokens next to a path of all",
    "edgenext_xx_small": r"xca.*channel",
    "efficientvit_m0": r"softmax",
    "levit_128s": r"attn_downsample.*pooled keys",
    "mobilevit_xxs": r"windows or groups",
    "mobilevitv2_050": r"no call of scaled_dot_product_attention",
    "pit_ti_224": r"transformers\.1.*49 items",
    "pvt_v2_b0": r"pooled keys",
    "test_coatnet": r"stages\.3",
    "test_maxvit": r"windows or groups",
    "tnt_s_patch16_224": r"attn_in.*windows or groups",
    "vit_dwee_patch16_reg1_gap_256": r"2 attention maps into one",
    "vit_small_patch16_18x2_224": r"side by side",
    "xcit_nano_12_p16_224": r"cls_attn_blocks\.0\.attn.*class attention",
}
MODULE = {name: module for module, names in families.FAMILIES.items() for name in names}


def test_every_timm_module_is_listed() -> None:
    assert families.unlisted() == []
    assert len(MODULE) >= 60


@pytest.mark.parametrize("name", EQUAL)
def test_probe_agrees_with_declared_layout(name: str) -> None:
    row = families.examine(MODULE[name], name)
    assert (row.verdict, row.size) == ("equal", (96, 128))
    assert row.observed.startswith(row.declared.partition(" patches")[0])


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_models_without_global_attention_raise(name: str) -> None:
    row = families.examine(MODULE[name], name)
    assert row.verdict == "unsupported"
    with pytest.raises(vi.UnsupportedModelError, match=UNSUPPORTED[name]):
        raise vi.UnsupportedModelError(row.observed)


def test_table_shows_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = vi.TokenLayout(1, 8, 6, "token", (96, 128))
    monkeypatch.setattr(families, "declared_layout", lambda *_: declared)
    table = families.table([families.examine("vision_transformer", "test_vit")])
    assert "**different**" in table
    assert "8 x 6 patches" in table
