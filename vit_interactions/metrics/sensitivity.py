"""Sensitivity: how much does the map change when the image hardly changes?

Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, Def. 3.1, computed by captum.
"""

from captum.metrics import sensitivity_max
from torch import Tensor

from vit_interactions.metrics.class_score import CHUNK
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.metrics.rerun import rerun_method
from vit_interactions.utilities.checks import check_count
from vit_interactions.utilities.seeds import seeded


def sensitivity(radius: float = 0.02, samples: int = 10, *, name: str = "sensitivity") -> Metric:
    """Create the metric: the largest ‖map(x + noise) - map(x)‖ / ‖map(x)‖ over samples of the noise.

    A map that ignores the image has sensitivity 0, so combine this with another metric.

    Args:
        radius: range of the noise, uniform in [-radius, radius], in normalized units.
        samples: number of noise samples.
        name: name in tables.

    Example:
        >>> sensitivity().needs
        frozenset({'explain'})
    """
    if not 0 < radius < float("inf"):
        raise ValueError(f"`radius` must be finite and > 0, got {radius!r}.")
    check_count("samples", samples)

    def measure(case: Case, patch_map: Tensor) -> Score:
        check_map(patch_map, case.layout.grid)

        def maps(images: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            # captum passes a tuple or a tensor, always float32, and expects the same kind back.
            batch = images[0] if isinstance(images, tuple) else images
            values = rerun_method(case, case.model, batch.to(case.inputs.dtype))
            return (values,) if isinstance(images, tuple) else values

        with seeded(case.seed):  # captum draws on the CPU
            largest = sensitivity_max(
                maps,
                case.inputs,
                perturb_radius=radius,
                n_perturb_samples=samples,
                max_examples_per_batch=min(CHUNK, samples),
            )
        return Score(float(largest))

    return Metric(
        name=name,
        direction="lower",
        range=(0.0, float("inf")),
        source="Yeh et al., NeurIPS 2019; captum.metrics.sensitivity_max",
        parameters={"radius": radius, "samples": samples, "norm": "Frobenius"},
        needs=frozenset({"explain"}),
        cost=f"{samples + 1} explanations",
        measure=measure,
    )
