#!/usr/bin/env python3
"""compare.py OURS THEIRS...: times of `wanscope bench` beside those of opponent.py, from their CSV or JSON files.

One line for each of our cases and each opponent that has it: medians and the ratio theirs / ours; above 1 we are faster.
"""
import csv
import json
import sys

KEY = ("what", "case", "model", "size", "frames")


def read(path):
    with open(path) as f:
        text = f.read()
    if text.lstrip().startswith("{"):
        return json.loads(text)["results"]
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def key(row):
    return tuple(str(row[k]) for k in KEY)


def main():
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    ours = read(sys.argv[1])
    theirs = [row for path in sys.argv[2:] for row in read(path)]
    print(f"{'what':10} {'case':14} {'model':5} {'size':>9} {'frames':>6} {'ours':>6} {'ms':>10} {'floor x':>8}  {'opponent':22} {'ms':>10} {'ratio':>7}")
    n = 0
    for a in ours:
        floor = f"{float(a['distance']):8.2f}" if float(a["distance"] or 0) else " " * 8
        head = f"{a['what']:10} {a['case']:14} {a['model']:5} {a['size']:>9} {a['frames']:>6} {a['precision']:>6} {float(a['median_ms']):10.3f} {floor}"
        for b in (row for row in theirs if key(row) == key(a)):
            print(f"{head}  {b['engine'] + ' ' + b['precision']:22} {float(b['median_ms']):10.3f} {float(b['median_ms']) / float(a['median_ms']):7.3f}")
            n += 1
    print(f"{n} comparisons; ratio = theirs / ours")
    return 0 if n else 1


if __name__ == "__main__":
    sys.exit(main())
