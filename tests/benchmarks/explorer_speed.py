"""Measure the explorer's latency, from a pointer move to the frame that shows it, in headless Chromium.

    python -m tests.benchmarks.explorer_speed

Prints the page size and the latency of 60 pointer moves in milliseconds, for 14 x 14 and 37 x 37 patches.
"""

import json
import tempfile
import time
from pathlib import Path

import timm
import torch

import vit_interactions as vi
from tests.helpers.browser import page
from vit_interactions.images.bundled import bundled_images

MOVES = 60
LISTEN = """
window.times = [];
window.addEventListener("pointermove", () => {
  const moved = performance.now();
  requestAnimationFrame(() => setTimeout(() => times.push(performance.now() - moved)));
}, true);
JSON.stringify((box => [box.left, box.top, box.width, box.height])(
  document.querySelector("#plot-interactions").getBoundingClientRect()));
"""


def main() -> None:
    """Make the pages, move over them and print the times."""
    for size in (224, 592):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", img_size=size).eval()
        explorer = vi.explorer(model, bundled_images()[1], alpha=0.05)
        with tempfile.TemporaryDirectory() as folder, page(explorer.save(Path(folder, "page.html"))) as shown:
            time.sleep(3)  # until everything is drawn
            left, top, width, height = json.loads(shown.run(LISTEN))
            for move in range(MOVES):
                across, down = (0.1 + 0.8 * (move * step % MOVES) / MOVES for step in (7, 13))
                shown.hover((left + width * across, top + height * down))
                time.sleep(0.05)
            times = sorted(json.loads(shown.run("JSON.stringify(times)")))
        middle, late = times[len(times) // 2], times[int(0.9 * len(times))]
        print(
            f"{size // 16} x {size // 16} patches, {len(explorer.html) / 1e6:.1f} MB: median {middle:.0f} ms, "
            f"90% within {late:.0f} ms, at most {times[-1]:.0f} ms"
        )


if __name__ == "__main__":
    main()
