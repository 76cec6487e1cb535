#!/bin/sh
# Runs every fuzz target for SECONDS_EACH seconds, two at a time; prints "N passed, N failed".
set -u
BUILD=${BUILD:-build/fuzz}
each=${SECONDS_EACH:-60}
dir=$(mktemp -d)
mkdir -p "$BUILD/crashes"
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1:max_allocation_size_mb=2048
run() {
    t=$(basename "$1")
    timeout $((each + 60)) "$1" -seconds "$each" -seed 1 -crash_dir "$BUILD/crashes" "tests/fuzz/corpus/${t#fuzz_}" >"$dir/$t.log" 2>&1
    echo $? >"$dir/$t.rc"
}
n=0
for f in "$BUILD"/fuzz/fuzz_*; do
    case "$f" in *.d|*.o) continue ;; esac
    run "$f" &
    n=$((n + 1))
    [ $((n % 2)) -eq 0 ] && wait
done
wait
passed=0 failed=0
for rc in "$dir"/*.rc; do
    t=$(basename "$rc" .rc)
    if [ "$(cat "$rc")" = 0 ]; then
        echo "ok - $t: $(tail -1 "$dir/$t.log")"
        passed=$((passed + 1))
    else
        echo "not ok - $t (status $(cat "$rc")); repeat with the input named below"
        tail -30 "$dir/$t.log"
        failed=$((failed + 1))
    fi
done
rm -rf "$dir"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
