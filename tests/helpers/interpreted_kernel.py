"""Run the fused kernel of U on the CPU: `TRITON_INTERPRET=1 python -m tests.helpers.interpreted_kernel CASES RESULTS`.

A process of its own, because Triton decides at import if it interprets.
"""

import sys

import torch

import vit_interactions as vi
from tests.helpers.explaining import images, small_vit
from vit_interactions.functional.uncertainty_kernel import DeferredUncertainty


def main(cases_path: str, results_path: str) -> None:
    """Compute U of every case, lists of arguments of `DeferredUncertainty.add`, and of a small model."""
    results = {}
    for name, layers in torch.load(cases_path).items():
        deferred = DeferredUncertainty()
        for arguments in layers:
            deferred.add(**arguments)
        results[name] = deferred.result(), deferred._running is not None
    results["model"] = (
        vi.InteractionUncertainty(small_vit())._pass(images(), None, None, None, fused=True)[0],
        False,
    )
    torch.save(results, results_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
