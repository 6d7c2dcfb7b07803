"""Rows per CPU second and memory of planning a campaign: by column, and row by row as it is usually written.

``python tests/benchmarks/bench_plan.py --rows 1000000`` writes a realistic file (97 of 100 numbers Swedish mobiles in
mixed forms, some foreign, one bad) and reads, checks, renders and counts it in each way, in a process of its
own. Both ways must give the same rows and segments.
"""

from __future__ import annotations

import argparse
import csv
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MESSAGE = (
    "Hej {Förnamn}! Din tid är {Datum} kl {Tid} på {Klinik}. Svara AVBOKA om du inte kan komma. Hälsningar Kliniken"
)
FORMS = ("0{}", "0{}", "0{}", "+46{}", "46{}", "0046{}", "+46 (0){}", "spaced", "dashed", "{}")
#: Fictional Americans are 555-0100 to 555-0199 in every area; nearly every number occurs once or twice only.
AREAS = (*range(201, 211), *range(212, 221), *range(223, 230), 231, 234, 235, 236, 239, 240, *range(248, 255))
BAD = ("", "4,67012E+10", "08-465 004 {:02d}", "07017406{:02d}x", "0701740")
#: Fictional Swedish mobiles are 070-1740605 to 070-1740699.
FIRST, LAST = 1740605, 1740699


def write_file(path: Path, rows: int) -> None:
    """Write ``rows`` records, the same ones each time."""
    rng = random.Random(20)
    names = ("Anna", "Åke", "Zoë", "Björn", "Märta", "Dragan", "Łukasz", "Émilie", "Bo", "Kristina")
    clinics = ("Söder", "Norr", "Vårdcentralen Öster", "City")
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(("Kundnr", "Förnamn", "Efternamn", "Mobilnummer", "Datum", "Tid", "Klinik"))
        for row in range(rows):
            writer.writerow(
                (row, rng.choice(names), "Testsson", _number(rng), "2026-08-12", "09:30", rng.choice(clinics))
            )


def _number(rng: random.Random) -> str:
    draw, tail = rng.random(), rng.randrange(100)
    if draw < 0.01:
        return rng.choice(BAD).format(tail)
    if draw < 0.03:
        return f"+1 {rng.choice(AREAS)}-555-01{tail:02}"
    number = str(rng.randint(FIRST, LAST))
    form = rng.choice(FORMS)
    if form == "spaced":
        return f"070-{number[:3]} {number[3:5]} {number[5:]}"
    return f"070-{number}" if form == "dashed" else form.format(f"70{number}")


def by_column(path: Path) -> tuple[int, int, int]:
    """Return the rows to send, the rejected rows and the segments."""
    from prefect_mymsp.recipients import open_source
    from prefect_mymsp.templates import Template

    source = open_source(path)
    template = Template(MESSAGE)
    template.check_columns(source.columns, source_label=source.label)
    rows = rejected_rows = segments = 0
    for chunk in source.chunks():
        rendered = template.render_chunk(chunk)
        rows += rendered.rows.num_rows
        rejected_rows += chunk.rejected_rows.num_rows + rendered.rejected_rows.num_rows
        segments += int(rendered.rows.column("segments").to_numpy().sum(dtype="int64"))
    return rows, rejected_rows, segments


def row_by_row(path: Path) -> tuple[int, int, int]:
    """Return the same, written as usual; keeps only the sums."""
    import phonenumbers

    from prefect_mymsp.segments import count_segments

    rows = rejected_rows = segments = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        for record in csv.DictReader(file, delimiter=";"):
            try:
                number = phonenumbers.parse(record["Mobilnummer"], "SE")
            except phonenumbers.NumberParseException:
                rejected_rows += 1
                continue
            mobile = phonenumbers.is_valid_number(number) and phonenumbers.number_type(number) in (1, 2)
            if not mobile or any(map(str.isalpha, record["Mobilnummer"])):
                rejected_rows += 1
                continue
            phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
            segments += count_segments(MESSAGE.format_map(record)).segments
            rows += 1
    return rows, rejected_rows, segments


WAYS = {"column": by_column, "row": row_by_row}


def measure(way: str, path: Path) -> tuple[float, float, tuple[int, ...]]:
    """Run one way in a process of its own.

    Returns:
        Processor seconds without imports, peak resident memory in MB, and the three sums.
    """
    figures = subprocess.run(
        [sys.executable, __file__, "--way", way, "--file", str(path)], check=True, capture_output=True, text=True
    ).stdout.split()
    return float(figures[0]), float(figures[1]), tuple(map(int, figures[2:]))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--baseline-rows", type=int, help="rows for the row-by-row way (default: all)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        import phonenumbers  # noqa: F401  its import is no part of either way

        import prefect_mymsp.recipients
        import prefect_mymsp.templates  # noqa: F401

        # Processor time of all threads: the figures hold on a machine that others use too.
        started = time.process_time()
        sums = WAYS[options.way](options.file)
        elapsed = time.process_time() - started
        # Kilobytes on Linux, bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        print(elapsed, peak, *sums)
        return
    with tempfile.TemporaryDirectory() as folder:
        rates = {}
        counts = {"column": options.rows, "row": options.baseline_rows or options.rows}
        totals = {}
        for way, rows in counts.items():
            path = Path(folder, f"{rows}.csv")
            if not path.exists():
                write_file(path, rows)
            seconds, peak, totals[way] = measure(way, path)
            rates[way] = rows / seconds
            print(f"{way:>7}: {seconds:6.2f} s, {rates[way]:9,.0f} rows/s, {1e6 / rates[way]:5.2f} µs a row,", end=" ")
            print(
                f"peak {peak:4.0f} MB; {totals[way][0]:,} to send, {totals[way][1]:,} rejected, "
                f"{totals[way][2]:,} segments"
            )
        print(f"  ratio: {rates['column'] / rates['row']:.1f}")
        if counts["row"] == counts["column"] and totals["row"] != totals["column"]:
            raise SystemExit("The two ways do not agree.")


if __name__ == "__main__":
    main()
