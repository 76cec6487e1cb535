#!/bin/sh
# Runs the whole suite and prints one line a test, then "N passed, N failed". Called by `make test` and `make asan`.
#   BUILD, BIN      where the programs are (default build/cpu, bin)
#   SANITIZED=1     the programs carry sanitizers: leaks count, timings do not
#   ONLY=unit|goldens|e2e|layers    one part only
set -u
BUILD=${BUILD:-build/cpu}
BIN=${BIN:-bin}
ONLY=${ONLY:-}
export BUILD BIN
TEST_TMP=$(mktemp -d)
export TEST_TMP
export OPENBLAS_NUM_THREADS=1
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
trap 'rm -rf "$TEST_TMP"' EXIT
if [ -d "${GOLDENS:-../shared/goldens}" ]; then
    GOLDENS=$(cd "${GOLDENS:-../shared/goldens}" && pwd)
    export GOLDENS
fi
passed=0 failed=0 skipped=0

tally() {   # NAME FILE STATUS: counts TAP lines; a crash or a silent program is a failure
    ok=$(grep -c '^ok ' "$2")
    skip=$(grep -cE '^(not )?ok .*# *(SKIP|skip)' "$2")      # cmocka writes "not ok N # SKIP"
    ok=$((ok - $(grep -cE '^ok .*# *(SKIP|skip)' "$2")))
    bad=$(($(grep -c '^not ok ' "$2") - $(grep -cE '^not ok .*# *(SKIP|skip)' "$2")))
    passed=$((passed + ok)); skipped=$((skipped + skip)); failed=$((failed + bad))
    if [ "$3" -ne 0 ] && [ "$bad" -eq 0 ]; then
        echo "not ok - $1 ended with status $3"
        failed=$((failed + 1))
        bad=1
    elif [ $((ok + bad + skip)) -eq 0 ]; then
        echo "not ok - $1 ran no test"
        failed=$((failed + 1))
        bad=1
    fi
    echo "$1: $ok passed, $bad failed, $skip skipped"
    if [ "$bad" -ne 0 ]; then sed 's/^/    /' "$2" | tail -60; fi
}

part() { [ -z "$ONLY" ] || [ "$ONLY" = "$1" ]; }

if part unit; then
    for t in "$BUILD"/unit/test_*; do
        [ -x "$t" ] && [ ! -d "$t" ] || continue
        case "$t" in *.d|*.o) continue ;; esac
        CMOCKA_MESSAGE_OUTPUT=TAP timeout 600 "$t" >"$TEST_TMP/out" 2>&1
        tally "$(basename "$t")" "$TEST_TMP/out" $?
    done
fi

if part goldens; then
    list="tests/golden/*/"
    for name in wan-t2v wan22-a14b wan-vace holocine longlive scope-vace rng; do list="$list ${GOLDENS:-/nonexistent}/$name"; done
    for d in $list; do
        [ -f "$d/golden.safetensors" ] || continue
        name=golden-check:$(basename "$d")
        timeout 600 "$BIN/golden-check" "$d" >"$TEST_TMP/golden" 2>&1
        rc=$?
        sed -n -e 's/^\(.*\)  pass$/ok \1/p' -e 's/^\(.*\)  FAIL$/not ok \1/p' "$TEST_TMP/golden" >"$TEST_TMP/out"
        tally "$name" "$TEST_TMP/out" $rc
        grep FAIL -A1 "$TEST_TMP/golden"
    done
fi

if part layers; then
    sh tests/unit/test_layers.sh >"$TEST_TMP/out" 2>&1
    tally layers "$TEST_TMP/out" $?
fi

if part e2e; then
    for t in tests/e2e/test_*.sh; do
        [ -f "$t" ] || continue
        timeout 900 bash "$t" >"$TEST_TMP/out" 2>&1
        tally "$(basename "$t")" "$TEST_TMP/out" $?
    done
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
