"""Mutated inputs for every decoder: messages, rows, channels, transfers, files. No crash, no swelling, no waiting.

    python scripts/fuzz.py --inputs 1000000 --seed 1 --json fuzz.json
    python scripts/fuzz.py --inputs 20000 --target deployment --target message

The inputs are shared out over the targets by what one costs. Runs under a memory limit of its own. A finding is written
to tests/fuzz/corpus/TARGET, where the test suite runs it from then on; exit code 1.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from hashlib import blake2b
from math import ceil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.fuzz.campaign import CORPUS, run  # noqa: E402
from tests.fuzz.harness import Report, Target  # noqa: E402
from tests.fuzz.targets import TARGETS  # noqa: E402

SHARES = {
    "message": 36, "frame": 18, "record": 16, "key-file": 6, "handshake-first": 7, "handshake-second": 3,
    "handshake-crafted": 2, "model-file": 4, "opening": 2, "roster": 1, "exclusion": 1, "evidence": 2,
    "upload": 1, "transfer": 1, "deployment": 1,
    "experiment": 0.25, "row": 0.25,
}  # fmt: skip
"""Parts of all inputs: the slow ones get fewer."""
MEMORY_BYTES = 1 << 30
"""Address space beyond what is in use when the run begins."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=20_000, help="in all")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same inputs")
    parser.add_argument(
        "--target", action="append", choices=list(TARGETS), help="only these (again and again)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    whole = sum(SHARES[target.name] for target in chosen)
    started, processor = time.perf_counter(), time.process_time()
    reports = []
    for target in chosen:
        target.seeds()  # makes what the limit need not cover
        _limit_memory()
        report = run(target, ceil(options.inputs * SHARES[target.name] / whole), options.seed)
        reports.append(report)
        print(_line(report), flush=True)
        for finding, data in report.findings.items():
            print(f"    {finding}: {_keep(target, finding, data)}", flush=True)
    total, findings = sum(r.inputs for r in reports), sum(len(r.findings) for r in reports)
    seconds = time.perf_counter() - started
    print(
        f"{total} inputs, {findings} findings, {seconds:.0f} s ({time.process_time() - processor:.0f} s of processor)"
    )
    if options.json:
        options.json.write_text(
            json.dumps(_figures(reports, options.seed, seconds, processor), indent=2) + "\n"
        )
    return 1 if findings else 0


def _limit_memory() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, resource.RLIM_INFINITY))


def _line(report: Report) -> str:
    rate = report.inputs / max(report.seconds, 1e-9)
    return (
        f"{report.target:18} {report.inputs:8} inputs {report.taken:7} taken {len(report.outcomes):4} outcomes "
        f"{report.seconds:6.0f} s {rate:6.0f}/s  peak {report.largest_peak / 1e6:5.1f} MB  "
        f"slowest {report.slowest:.3f} s  {len(report.findings)} findings"
    )


def _keep(target: Target, finding: str, data: bytes) -> Path:
    words = "-".join(part for part in finding.lower().split() if part.isalnum())[:60]
    path = CORPUS / target.name / f"{words}-{blake2b(data, digest_size=4).hexdigest()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.relative_to(ROOT)


def _figures(reports: list[Report], seed: int, seconds: float, processor: float) -> dict[str, object]:
    return {
        "seed": seed,
        "inputs": sum(report.inputs for report in reports),
        "findings": sum(len(report.findings) for report in reports),
        "seconds": round(seconds, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "largest_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "targets": {
            report.target: {
                "inputs": report.inputs, "taken": report.taken, "outcomes": len(report.outcomes),
                "seconds": round(report.seconds, 1), "peak_bytes": report.largest_peak,
                "slowest_s": round(report.slowest, 4), "findings": sorted(report.findings),
            }
            for report in reports
        },
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
