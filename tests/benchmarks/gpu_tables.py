"""The Markdown tables of the measurements of `gpu.py`."""

from typing import Any

from tests.benchmarks.gpu_costs import BASELINE, FORWARD, FUSED, Peak, Record, U


def tables(records: list[Record], peak: Peak) -> str:
    """Return the Markdown tables of all costs."""
    costs = [record for record in records if record.get("part") == "cost"]
    columns = list(dict.fromkeys((record["setting"], record["batch"]) for record in costs))
    parts = []
    for dtype in dict.fromkeys(record["dtype"] for record in costs):
        found = {(r["way"], (r["setting"], r["batch"])): r for r in costs if r["dtype"] == dtype}
        for title, cell in (
            ("Time / baseline: median (min-max)", ratio),
            ("Peak memory beyond model and images, GB per image", gigabytes),
            (f"Share of the peak of {peak.tflops.get(dtype)} TFLOP/s", lambda record: share_of_peak(record, peak)),
        ):
            lines = [f"| {title} | baseline |" + "".join(f" {name}, batch {batch} |" for name, batch in columns)]
            lines.append("|" + " --- |" * (len(columns) + 2))
            rows = {
                way: [cell(found[way, column]) if (way, column) in found else "" for column in columns]
                for way in BASELINE
            }
            lines += [f"| {way} | {BASELINE[way]} | " + " | ".join(cells) + " |" for way, cells in rows.items()]
            if any(map(any, rows.values())):  # on a CPU, there is no memory and no peak
                parts.append(f"## {title}, {dtype}\n\n" + "\n".join(lines))
        if peak.bandwidth:
            parts.append(bandwidth_of_u(found, columns, peak.bandwidth, dtype))
    skipped = [
        f"- {r['way']}, {r['setting']}, batch {r['batch']}, {r['dtype']}: {r['skipped']}"
        for r in costs
        if "skipped" in r
    ]
    return "\n\n".join([*parts, *(["## Skipped\n\n" + "\n".join(skipped)] if skipped else [])])


def ratio(record: Record) -> str:
    """Format the ratio to the baseline, and the milliseconds of the baseline itself."""
    if "skipped" in record:
        return "skipped"
    if BASELINE[record["way"]] == record["way"]:
        return f"1.00 ({1e3 * record['seconds']:.1f} ms)"
    middle, low, high = record["ratio"]
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def gigabytes(record: Record) -> str:
    """Format the peak memory per image."""
    return f"{record['peak'] / 1e9:.3f}" if record.get("peak") else ""


def share_of_peak(record: Record, peak: Peak) -> str:
    """Format the operations per second as a share of the device's peak."""
    most = peak.tflops.get(record["dtype"])
    if most is None or not record.get("flops"):
        return ""
    return f"{record['flops'] * record['batch'] / record['seconds'] / (1e12 * most):.0%}"


def bandwidth_of_u(found: dict[Any, Record], columns: list[tuple[str, int]], bandwidth: float, dtype: str) -> str:
    """Return the table of the bytes that U moves in the time beyond the forward pass, as a share of the bandwidth."""
    lines = []
    for way in (U, FUSED):
        cells = []
        for column in columns:
            mine, plain = found.get((way, column), {}), found.get((FORWARD, column), {})
            beyond = mine.get("seconds", 0.0) - plain.get("seconds", float("inf"))
            cells.append(f"{mine['bytes'] * column[1] / beyond / (1e12 * bandwidth):.0%}" if beyond > 0 else "")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    title = f"Least bytes of U / time beyond the forward pass, share of {bandwidth} TB/s"
    head = f"| {title} |" + "".join(f" {name}, batch {batch} |" for name, batch in columns)
    return "\n".join([f"## {title}, {dtype}\n", head, "|" + " --- |" * (len(columns) + 1), *lines])
