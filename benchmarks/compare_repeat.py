"""Do two runs of one comparison agree? On a busy machine times do not; ratios should, within their stated spread.

usage: python benchmarks/compare_repeat.py --work-dir DIR [--beside N] [--output FILE] -- --index A --index B [...]

What stands behind `--` are options of `ibkd compare`, which is run twice, each time in a process of its own, with
reports in DIR/first and DIR/second; beside the second run, N processes compute all the while. Two ratios agree where
their spreads (least to greatest of the rounds) overlap; scores, sizes, recalls and agreements have no spread and must
be equal. Writes benchmarks/results/compare_repeat.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ibkd_retrieval.evaluation.compare.report import ComparisonReport, SystemResult, read_comparison
from ibkd_retrieval.files import write_json

_BUSY = "while True: sum(range(1_000_000))"
_PROGRAM = "import sys; sys.path[:] = {path!r}; from ibkd_cli.app import main; main()"


def compared(options: list[str], folder: Path) -> ComparisonReport:
    """The report of one run."""
    program = _PROGRAM.format(path=[str(Path(entry).resolve()) for entry in sys.path])
    subprocess.run([sys.executable, "-c", program, "compare", *options, "--output", str(folder)], check=True)
    return read_comparison(folder / "report.json")


@contextlib.contextmanager
def beside(processes: int) -> Iterator[None]:
    """Keep processors busy."""
    running = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def ratios(one: SystemResult, other: SystemResult) -> list[dict[str, Any]]:
    """Every timed gain of a system in both runs, and whether they agree."""
    found = []
    for cost in sorted(one.gain_spread):
        (low, high), (other_low, other_high) = one.gain_spread[cost], other.gain_spread[cost]
        found.append(
            {
                "cost": cost,
                "gains": [round(one.gains[cost], 4), round(other.gains[cost], 4)],
                "spreads": [[round(low, 4), round(high, 4)], [round(other_low, 4), round(other_high, 4)]],
                "agree": low <= other_high and other_low <= high,
                "within_each_other": other_low <= one.gains[cost] <= other_high and low <= other.gains[cost] <= high,
            }
        )
    return found


def differences(one: SystemResult, other: SystemResult) -> list[str]:
    """What has no spread and differs all the same."""
    return [
        name
        for name in ("scores", "contrasts", "recall_against_exact", "agreement", "sizes")
        if getattr(one, name) != getattr(other, name)
    ]


def main() -> None:
    """Run twice, compare the comparisons, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--beside", type=int, default=0, help="processes that compute beside the second run")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/compare_repeat.json"))
    parser.add_argument("options", nargs="+", help="of `ibkd compare`, behind --")
    arguments = parser.parse_args()
    load_before = os.getloadavg()
    first = compared(arguments.options, arguments.work_dir / "first")
    with beside(arguments.beside):
        second = compared(arguments.options, arguments.work_dir / "second")
    systems = [
        {
            "data_set": data.name,
            "system": name,
            "differs": differences(data.systems[name], again.systems[name]),
            "total_p50_ms": [each.systems[name].latency_ms.total.p50 for each in (data, again)],
            "ratios": ratios(data.systems[name], again.systems[name]),
        }
        for data, again in zip(first.data_sets, second.data_sets, strict=True)
        for name in list(data.systems)[1:]
    ]
    every = [ratio for system in systems for ratio in system["ratios"]]
    result = {
        "baseline": first.baseline,
        "created": [first.created, second.created],
        "processes_beside_the_second": arguments.beside,
        "load_average": [load_before, os.getloadavg()],
        "environment": second.environment.to_json(),
        "ratios": len(every),
        "agree": sum(ratio["agree"] for ratio in every),
        "within_each_other": sum(ratio["within_each_other"] for ratio in every),
        "other_figures_equal": not any(system["differs"] for system in systems),
        "systems": systems,
    }
    write_json(arguments.output, result)
    for system in systems:
        for ratio in system["ratios"]:
            mark = "" if ratio["agree"] else "  <- disagree"
            gains, spreads = ratio["gains"], ratio["spreads"]
            print(f"{system['data_set']} {system['system']} {ratio['cost']}: {gains} {spreads}{mark}")
    print(f"{result['agree']} of {len(every)} ratios agree; other figures equal: {result['other_figures_equal']}")


if __name__ == "__main__":
    main()
