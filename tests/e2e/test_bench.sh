# wanscope bench on the CPU with tiny networks: every measure runs, in all formats, and says what it promises. Never the times.
. tests/e2e/lib.sh

B="$W bench --model tiny --device cpu --repeat 2 --blocks 2"
COLUMNS="engine what case model size frames precision shape repeats median_ms min_ms max_ms p99_ms tflop gbyte floor_ops_ms floor_bytes_ms distance tflop_s frames_s sm_mhz note"
CASES="attention:self attention:cross gemm:proj gemm:ffn-up gemm:ffn-down block:cond forward:cond vae:decode vae:encode t5:encode capture:without capture:with capture:with-plain capture:probs offload:resident offload:half offload:all longlive:block longlive:block+vae longlive:prompt-switch sparse:attention vace:cond"

check forward-table "no table:" sh -c "$B forward | tee t.txt | grep -q '^forward  *cond'"
for word in "device:" "cpu:" "floors: operations / 989 TFLOP/s, bytes / 4.3 TB/s" "model: tiny, 64x64, 5 frames, exact, 2 repeats" "latents \[16 2 8 8\] tokens 32"; do
    check "table: $word" "the table lacks it:" grep -q "$word" t.txt
done

check forward-csv "no CSV:" $B forward --format csv --output f.csv
check csv-columns "the columns are not those promised:" sh -c "grep -v '^#' f.csv | head -1 | tr ',' ' ' | grep -qx '$COLUMNS'"
check csv-row "the row is not as promised:" sh -c "grep '^wanscope,forward,cond,tiny,64x64,5,exact,latents \[16 2 8 8\] tokens 32,2,' f.csv | awk -F, '{ exit !(\$10 > 0 && \$11 <= \$10 && \$10 <= \$12 && \$13 == \$12 && \$14 >= 0 && \$18 > 0 && NF == 22) }'"
check csv-comments "the machine is not described:" grep -q '^# device: ' f.csv

check forward-json "no JSON:" $B forward --format json --output f.json
for key in $COLUMNS; do check "json-$key" "the row lacks the key:" grep -q "\"$key\":" f.json; done
check json-machine "the machine is not described:" grep -q '"machine":{"wanscope":"[0-9.]*","build":"[^"]*","device":"CPU' f.json

check all "bench without words fails:" $B --format csv --output all.csv
check all-cases "cases are missing or too many: $(awk -F, '/^wanscope/ { printf "%s:%s ", $2, $3 }' all.csv)" sh -c "awk -F, '/^wanscope/ { printf \"%s%s:%s\", n++ ? \" \" : \"\", \$2, \$3 }' all.csv | grep -qx '$CASES'"
check all-positive "a time is not positive:" awk -F, '/^wanscope/ { if (!($10 > 0 && $11 > 0)) exit 1 }' all.csv
check capture-ratio "no ratio:" grep -q '^wanscope,capture,with,.*times the step without' all.csv
check no-litter "a trace was left behind:" sh -c "! ls ${TMPDIR:-/tmp}/wanscope-bench-* 2>/dev/null"

# counted by hand: 128 tokens, 2 x 128 x 256 x 256 operations
check gemm-count "the operations of a product are miscounted:" sh -c "$B gemm --size 128x128 --format json | grep -o '\"case\":\"proj\".*\"tflop\":[^,]*' | head -1 | sed 's/.*://' | awk '{ exit !(\$1 == 16777216e-12) }'"
check sizes "--size or --frames is not followed:" sh -c "$B attention --size 96x64 --frames 9 | grep -q 'q\[72 256\] kv\[72 256\]'"
says sparse-short 2 "make no 2 shots" $B sparse --frames 1
says output-folder 2 "no/such" $B gemm --output no/such/file.csv
