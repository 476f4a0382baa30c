"""The table of measured speeds as Markdown, from `benchmarks/results/cpu.json`; the README shows it."""
import json
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results" / "cpu.json"
HEADER = ("on this machine", "to reach", "measured", "from … to", "runs", "reached")


def number(value: float) -> str:
    "Three significant digits, thousands separated."
    if abs(value) >= 100: return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def row(figure: dict) -> list[str]:
    unit = f" {figure['unit']}"
    target = "" if figure["target"] is None else f"{'≥' if figure['at_least'] else '≤'} {number(figure['target'])}{unit}"
    reached = {True: "yes", False: "**no**", None: ""}[figure["reached"]]
    return [figure["what"], target, f"{number(figure['median'])}{unit}",
            f"{number(figure['min'])} … {number(figure['max'])}", str(figure["runs"]), reached]


def machine_line(machine: dict) -> str:
    "The machine in one sentence."
    instructions = ", ".join(machine["instructions"]) or "no vector instructions known here"
    packages = machine["packages"]
    return (f"{machine['cores']} cores of {machine['cpu']} ({instructions}), {machine['memory_gib']:g} GiB, "
            f"{machine['threads']} threads, Python {machine['python']}, PyTorch {packages['torch']}, {machine['kernels']}")


def table(results: dict) -> str:
    "Markdown: a table with a line a figure, and under it the machine."
    lines = [HEADER, ["---"] * len(HEADER), *map(row, results["figures"].values())]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    revisions = sorted({figure["revision"] or "unknown" for figure in results["figures"].values()})
    return f"{text}\n\nMedians; measured on {machine_line(results['machine'])}, at {', '.join(revisions)}."


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    print(table(json.loads(path.read_text(encoding="utf-8"))))
