#!/bin/bash
# `wanscope bench` and tests/bench/opponent.py with the same shapes, one after the other, then the ratios.
#   BIN     where wanscope is;  PYTHON  a python3 that has PyTorch;  OUT  folder for the two CSV files (kept when given)
# Words are those of `wanscope bench`; --model, --size, --frames, --precision and --repeat go to both.
set -u
BIN=${BIN:-bin}
PYTHON=${PYTHON:-python3}
HERE=$(dirname "$0")
OUT=${OUT:-}
if [ -z "$OUT" ]; then
    OUT=$(mktemp -d)
    trap 'rm -rf "$OUT"' EXIT
fi
mkdir -p "$OUT"
ours=("$@") theirs=()
while [ $# -gt 0 ]; do
    case "$1" in
    capture | offload | fp8) ;;             # PyTorch has nothing like them here
    --precision)
        shift
        [ "${1:-}" = fp8 ] && theirs+=(--precision bf16) || theirs+=(--precision "${1:-}") ;;      # what fp8 has to beat
    --blocks | --seed | --threads) shift ;;
    --blocks=* | --seed=* | --threads=*) ;;
    --format | --output | --format=* | --output=*) echo "run.sh sets $1 itself" >&2; exit 2 ;;
    --precision=fp8) theirs+=(--precision=bf16) ;;
    *) theirs+=("$1") ;;
    esac
    shift
done
"$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null || { echo "$PYTHON has no PyTorch that sees a GPU; set PYTHON" >&2; exit 2; }
"$BIN/wanscope" bench "${ours[@]}" --format csv --output "$OUT/wanscope.csv" || exit
"$PYTHON" "$HERE/opponent.py" "${theirs[@]}" --output "$OUT/torch.csv" || exit
"$PYTHON" "$HERE/compare.py" "$OUT/wanscope.csv" "$OUT/torch.csv"
