"""The measurements of one image, and their JSON."""

import json

import pytest
import timm
import torch

import vit_interactions as vi
from tests.helpers.explaining import images
from tests.helpers.families import FAMILIES
from tests.helpers.pair_studies import record_of
from tests.helpers.sharp_vit import sharp_vit
from vit_interactions.compare.models import ComparedModel
from vit_interactions.explain.configured import configure
from vit_interactions.metrics import Case
from vit_interactions.metrics.pair_curves import pair_curves
from vit_interactions.metrics.pair_effects import pair_effects
from vit_interactions.pair_study.measure import PairRecord, PairSettings, measure_pairs


def test_effects_of_the_predicted_class_and_values_of_each_method() -> None:
    model, inputs = sharp_vit(img_size=64), images(1)
    compared = ComparedModel(model, named=False)
    methods = configure(["interaction_uncertainty", "generic_attention"])
    record = measure_pairs(compared, inputs, methods, PairSettings(6, 3, "shapley_taylor"), seed=5)
    target = int(model(inputs).argmax())
    assert (record.target, record.grid) == (target, (4, 4))
    layout = vi.token_layout(model, (64, 64))
    case = Case(model, inputs, target, layout, *compared.normalization, seed=5)
    effects = pair_effects(case, record.effects.pairs, 3, weighting="shapley_taylor")
    assert torch.equal(effects.differences, record.effects.differences)
    u = vi.InteractionUncertainty(model).uncertainty(inputs)[0].double()
    generic = vi.GenericAttention(model).pair_map(inputs, target)[0].double()
    for number, (i, j) in enumerate(record.effects.pairs.tolist()):
        for name, pair_map in (("interaction_uncertainty", u), ("generic_attention", generic)):
            assert float(record.values[name][number]) == pytest.approx(float(pair_map[i, j] + pair_map[j, i]) / 2)
        assert record.values["first_order_product"][number] == effects.first_order[number]
        apart = ((i // 4 - j // 4) ** 2 + (i % 4 - j % 4) ** 2) ** 0.5
        assert float(record.values["closeness"][number]) == pytest.approx(-apart)
    assert record.curves["interaction_uncertainty"].equal(pair_curves(case, u, 10))
    assert record.curves["generic_attention"].equal(pair_curves(case, generic, 10))
    assert set(record.values) - set(record.curves) == {"first_order_product"}
    assert not record.failures
    again = measure_pairs(compared, inputs, methods, PairSettings(6, 3, "shapley_taylor"), seed=5)
    assert again.as_json() == record.as_json()


def test_a_method_that_fails_is_recorded() -> None:
    model = sharp_vit(img_size=64)
    methods = configure(["gmar", "generic_attention:start_layer=50"])
    record = measure_pairs(ComparedModel(model, named=False), images(1), methods, PairSettings(4, 2), seed=0)
    assert list(record.failures) == ["generic_attention:start_layer=50"]
    assert "`start_layer` must be < 6" in record.failures["generic_attention:start_layer=50"]
    assert "gmar" in record.values


def test_a_map_that_is_not_finite_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vi.GMAR, "_pairs", lambda *_: torch.full((1, 16, 16), torch.nan))
    compared = ComparedModel(sharp_vit(img_size=64), named=False)
    record = measure_pairs(compared, images(1), configure(["gmar"]), PairSettings(4, 2), seed=0)
    assert "must be finite" in record.failures["gmar"]
    assert "gmar" not in record.values


def test_models_that_attend_only_to_patches_have_effects_but_no_curves() -> None:
    family = FAMILIES["siglip"]
    compared = ComparedModel(family.build(), named=False)
    record = measure_pairs(compared, family.images()[:1], configure(["raw_attention"]), PairSettings(4, 2), seed=0)
    assert list(record.failures) == ["second-order insertion and deletion"]
    assert "no token is left" in record.failures["second-order insertion and deletion"]
    assert "raw_attention" in record.values
    assert not record.curves


def test_models_without_classes_are_unsupported() -> None:
    model = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    with pytest.raises(vi.UnsupportedModelError, match="has no classes"):
        measure_pairs(ComparedModel(model, named=False), images(1), (), PairSettings(4, 2), seed=0)


def test_json_gives_the_same_record() -> None:
    record = record_of(0)
    content = json.loads(json.dumps(record.as_json()))
    assert PairRecord.from_json(content).as_json() == record.as_json()
    with pytest.raises(KeyError):
        PairRecord.from_json({})
    with pytest.raises(ValueError, match="different numbers of pairs"):
        PairRecord.from_json({**content, "values": {"gmar": [1.0]}})
    for curves in ({"perfect": [[0.0, 1.0]]}, {"perfect": [0.0, 1.0]}, {"gmar": [[0.0, 1.0, 1.0]]}):
        with pytest.raises(ValueError, match="a curve has another shape, or its method has no values"):
            PairRecord.from_json({**content, "curves": curves})
