# Shared by the end-to-end tests: one line `ok NAME` or `not ok NAME: why` a test.
# BIN: folder of the programs; TEST_TMP: where to write; run from the repository root.
set -u
REPO=$(pwd)
BIN=$(cd "${BIN:-bin}" && pwd)
W=$BIN/wanscope
TMP=${TEST_TMP:-/tmp}/e2e-$$
mkdir -p "$TMP"
trap 'rm -rf "$TMP"' EXIT
MODEL=$REPO/tests/golden/wan-tiny
cd "$TMP" || exit 1

ok() { echo "ok $1"; }
bad() { echo "not ok $1: $2"; }
skip() { echo "ok $1 # SKIP $2"; }

# check NAME WHY COMMAND...: ok when the command succeeds
check() {
    local name=$1 why=$2
    shift 2
    if "$@" >"$TMP/check.log" 2>&1; then ok "$name"; else bad "$name" "$why $(tail -2 "$TMP/check.log" | tr '\n' ' ')"; fi
}

# says NAME STATUS TEXT COMMAND...: ok when it ends with STATUS and stderr has TEXT; a sanitizer's report never passes
says() {
    local name=$1 status=$2 text=$3 rc=0
    shift 3
    "$@" >"$TMP/says.out" 2>"$TMP/says.err" || rc=$?
    if [ "$rc" -ne "$status" ]; then bad "$name" "status $rc, expected $status: $(tail -1 "$TMP/says.err")"
    elif ! grep -qF -- "$text" "$TMP/says.err"; then bad "$name" "does not say '$text': $(tail -1 "$TMP/says.err")"
    elif grep -q "Sanitizer\|runtime error" "$TMP/says.err"; then bad "$name" "$(grep -m1 "Sanitizer\|runtime error" "$TMP/says.err")"
    else ok "$name"; fi
}

# config FILE [EXTRA YAML]: a sweep of 4 variations x 2 seeds on a tiny random model
config() {
    cat >"$1" <<YAML
model: {path: $MODEL, device: cpu, seed: 7}
video: {width: 48, height: 32, frames: 5, fps: 8}
sampling: {steps: 3, solver: unipc, shift: 3, guidance_scale: 4}
prompt:
  template: "${2:-[a|b] (ca) [d|]}"
  negative: "no"
capture:
  latents: {enabled: true}
  attention: {enabled: true}
batch: {videos_per_variation: 2, name: sweep}
output: {use_timestamp: false}
YAML
}

# digests DIR: name and sha256 of every file of the runs, sorted
digests() { (cd "$1" && find runs -type f | sort | xargs sha256sum); }
# the last whole line of every run in the manifest, without what the clock says, in a fixed order
manifest() { awk -F'"' '/}$/ { last[$4] = $0 } END { for (r in last) print last[r] }' "$1/manifest.jsonl" | sed -e 's/"seconds":[^,]*,//' -e 's/,"time":"[^"]*"//' | sort; }

# st FILE 'NAME SHAPE...' ...: a safetensors file of f32 tensors whose every number is 0.0115 (bytes 3c); with ST_TYPE=BF16 of the
# numbers of the tiny model, one after another
st() {
    local file=$1 header="{" at=0 n size t d sizes
    shift
    for t in "$@"; do
        sizes=$(echo "${t#* }" | tr ' ' ',')
        n=4
        [ "${ST_TYPE:-F32}" = F32 ] || n=2
        for d in ${t#* }; do n=$((n * d)); done
        [ "$header" = "{" ] || header="$header,"
        header="$header\"${t%% *}\":{\"dtype\":\"${ST_TYPE:-F32}\",\"shape\":[$sizes],\"data_offsets\":[$at,$((at + n))]}"
        at=$((at + n))
    done
    header="$header}"
    while [ $((${#header} % 8)) -ne 0 ]; do header="$header "; done
    size=${#header}
    {
        printf "\\$(printf %03o $((size & 255)))\\$(printf %03o $((size >> 8 & 255)))\\000\\000\\000\\000\\000\\000"
        printf %s "$header"
        if [ "${ST_TYPE:-F32}" = F32 ]; then
            head -c "$at" /dev/zero | tr '\000' '<'
        else
            for n in 1 2 3 4; do tail -c 160000 "$MODEL/diffusion_pytorch_model.safetensors"; done | head -c "$at"
        fi
    } >"$file"
}

# vace_module FILE: VACE tensors for the tiny model, two hint blocks
vace_module() {
    local p a tensors=("vace_patch_embedding.weight 48 96 1 2 2" "vace_patch_embedding.bias 48" "vace_blocks.0.before_proj.weight 48 48" "vace_blocks.0.before_proj.bias 48")
    for p in vace_blocks.0 vace_blocks.1; do
        tensors+=("$p.after_proj.weight 48 48" "$p.after_proj.bias 48" "$p.modulation 1 6 48" "$p.norm3.weight 48" "$p.norm3.bias 48"
            "$p.ffn.0.weight 80 48" "$p.ffn.0.bias 80" "$p.ffn.2.weight 48 80" "$p.ffn.2.bias 48")
        for a in self_attn cross_attn; do
            for x in q k v o; do tensors+=("$p.$a.$x.weight 48 48" "$p.$a.$x.bias 48"); done
            tensors+=("$p.$a.norm_q.weight 48" "$p.$a.norm_k.weight 48")
        done
    done
    ST_TYPE=BF16 st "$1" "${tensors[@]}"
}
