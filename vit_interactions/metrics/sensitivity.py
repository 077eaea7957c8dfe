"""Sensitivity: how far the map moves when the photograph hardly does.

Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, Def. 3.1, by captum.
"""

from captum.metrics import sensitivity_max
from torch import Tensor

from vit_interactions.metrics.class_score import CHUNK
from vit_interactions.metrics.explain import explain
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.utilities.checks import check_count
from vit_interactions.utilities.seeds import seeded


def sensitivity(radius: float = 0.02, samples: int = 10, *, name: str = "sensitivity") -> Metric:
    """Make the metric: the largest ‖map(x + noise) - map(x)‖ / ‖map(x)‖ over samples of the noise.

    A map that does not look at the photograph has sensitivity 0: it tells good maps apart only beside another metric.

    Args:
        radius: the noise is uniform in [-radius, radius], in normalised numbers.
        samples: how often noise is drawn.
        name: what tables call it.

    Example:
        >>> sensitivity().needs
        frozenset({'explain'})
    """
    if not 0 < radius < float("inf"):
        raise ValueError(f"`radius` must be finite and > 0, but got {radius!r}.")
    check_count("samples", samples)

    def measure(case: Case, patch_map: Tensor) -> Score:
        check_map(patch_map, case.layout.grid)

        def maps(images: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            # captum asks with a tuple or a tensor, of float32 whatever it was given, and wants back the same kind.
            batch = images[0] if isinstance(images, tuple) else images
            values = explain(case, case.model, batch.to(case.inputs.dtype))
            return (values,) if isinstance(images, tuple) else values

        with seeded(case.seed):  # captum draws on the CPU
            moved = sensitivity_max(
                maps,
                case.inputs,
                perturb_radius=radius,
                n_perturb_samples=samples,
                max_examples_per_batch=min(CHUNK, samples),
            )
        return Score(float(moved))

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
