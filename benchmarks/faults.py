"""The counts of `make faults` as one table."""
import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results/faults.json"


def faults_table(found: dict, # the content of results/faults.json
) -> str: # Markdown
    "A line for each door and each attack: what was tried, how often, how often it was answered and not refused, and how often it got through."
    rows = [[row["door"], f"{row['cases']:,}", f"{row['answered']:,}", f"{row['escapes']}"] for row in found.get("doors", [])]
    rows += [[row["attack"], f"{row['cases']:,}", "", f"{len(row['escapes'])}"] for row in found.get("runs", [])]
    lines = [" | ".join(cells) for cells in (["door or attack", "cases", "answered", "escapes"], ["---", "---:", "---:", "---:"], *rows)]
    notes = [f"*{row['door']}*: {row['note']}." for row in found.get("doors", []) if row.get("note")]
    return "\n\n".join(["\n".join(f"| {line} |" for line in lines), *notes])


if __name__ == "__main__": print(faults_table(json.loads(RESULTS.read_text(encoding="utf-8"))))
