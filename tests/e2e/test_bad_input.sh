. tests/e2e/lib.sh

config sweep.yaml
says no-command 2 "usage: wanscope COMMAND" "$W"
says unknown-command 2 "did you mean 'run'" "$W" rum
says serve 2 "not part of this build" "$W" serve
says bench 2 "did you mean 'attention'" "$W" bench attenton
says bench-size 2 "multiples of 16" "$W" bench gemm --model tiny --size 100x100
says bench-frames 2 "4n+1" "$W" bench gemm --model tiny --frames 6
says bench-model 2 "use 1.3b, 14b or tiny" "$W" bench gemm --model 7b
says bench-precision 2 "does not compute so" "$W" bench gemm --model tiny --device cpu --precision bf16
says bench-fp8 2 "does not multiply in 8 bits; it takes a Hopper GPU" "$W" bench fp8 --model tiny --device cpu
says bench-option 2 "did you mean '--repeat'" "$W" bench --repeats 3
says bench-repeat 2 "a whole number from 1" "$W" bench --repeat 0
for c in run plan generate expand inspect compare; do check "help-$c" "no help:" sh -c "'$W' $c --help | grep -q usage"; done
check help "no help:" sh -c "'$W' --help | grep -q generate"
check version "no version:" sh -c "'$W' --version | grep -q wanscope"
says unknown-flag 2 "did you mean --store-latents" "$W" run --config sweep.yaml --store-latent
says missing-value 2 "--seed needs a value" "$W" run --config sweep.yaml --seed
says stray-word 2 "unexpected argument 'sweep'" "$W" run sweep
says underscores 0 "runs done" "$W" run --config sweep.yaml --output_dir under --videos_per_variation 1
says no-config 2 "no settings: give --config" "$W" run
says config-missing 2 "nothing.yaml" "$W" run --config nothing.yaml
sed 's/steps: 3/stepz: 3/' sweep.yaml >key.yaml
says unknown-key 2 "key.yaml:3" "$W" run --config key.yaml
says unknown-key-near 2 "steps" "$W" run --config key.yaml
says bad-set 2 "sampling.stepz" "$W" run --config sweep.yaml --set sampling.stepz=3
says bad-size 2 "--width 50: video.width is 50" "$W" run --config sweep.yaml --width 50
says bad-frames 2 "video.frames" "$W" run --config sweep.yaml --frames 6
says bad-brackets 2 "^" "$W" run --config sweep.yaml --template 'a [b|c'
says no-prompt 2 "no prompt" "$W" run --config sweep.yaml --template ''
says bad-variation 2 "variation 9, but the template has 4" "$W" run --config sweep.yaml --set batch.variations=2,9
says bad-layer 2 "capture.attention.layers names 99" "$W" run --config sweep.yaml --set capture.attention.layers=99
says bad-step 2 "steps" "$W" run --config sweep.yaml --set capture.attention.steps=99
says bad-device 3 "cuda" "$W" run --config sweep.yaml --device cuda:99
says nothing-to-store 2 "nothing would be stored" "$W" run --config sweep.yaml --set output.video=false --set output.preview=false --set capture.latents.enabled=false --set capture.attention.enabled=false
says bending 2 "bending" "$W" run --config sweep.yaml --set bending.enabled=true
check bad-input-writes-nothing "bad input left a batch:" test ! -e outputs

copy() { rm -rf "$1"; cp -r "$MODEL" "$1"; chmod -R u+w "$1"; }
copy m1
f=m1/diffusion_pytorch_model.safetensors
head -c $(( $(stat -c %s $f) / 2 )) $f >t && cp t $f
says truncated-dit 2 "diffusion_pytorch_model.safetensors" "$W" run --config sweep.yaml --model m1
copy m2
f=m2/Wan2.1_VAE.pth
head -c $(( $(stat -c %s $f) / 2 )) $f >t && cp t $f
says truncated-vae 2 "Wan2.1_VAE.pth" "$W" run --config sweep.yaml --model m2
copy m3
rm m3/models_t5*
says no-text-encoder 2 "has no text encoder" "$W" run --config sweep.yaml --model m3
copy m4
rm -r m4/google
says no-tokenizer 2 "tokenizer" "$W" run --config sweep.yaml --model m4
copy m5
python3 - m5/diffusion_pytorch_model.safetensors <<'PY'
import json, struct, sys
p = sys.argv[1]
b = bytearray(open(p, "rb").read())
n = struct.unpack("<Q", b[:8])[0]
h = json.loads(b[8:8 + n])
t = h["blocks.0.self_attn.q.weight"]
at = 8 + n + t["data_offsets"][0]
b[at:at + 4] = b"\xc0\x7f\xc0\x7f" if t["dtype"] == "BF16" else struct.pack("<f", float("nan"))
open(p, "wb").write(b)
PY
says nan-weights 1 "holds such values; the file is damaged" "$W" run --config sweep.yaml --model m5 --batch-name nan
check nan-recorded "failed runs are not in the manifest:" sh -c 'test $(grep -c "\"state\":\"failed\"" outputs/nan/manifest.jsonl) = 8'
check nan-leaves-no-run "failed runs left files:" sh -c '! find outputs/nan/runs -type f | grep .'
says max-failures 1 "batch.max_failures" "$W" run --config sweep.yaml --model m5 --batch-name nan2 --set batch.max_failures=2
check max-failures-stops "the batch went on:" sh -c 'test $(wc -l <outputs/nan2/manifest.jsonl) = 2'
says no-model 2 "nowhere" "$W" run --config sweep.yaml --model nowhere

if [ "$(id -u)" = 0 ] && mkdir -p disk && mount -t tmpfs -o size=400k tmpfs disk 2>/dev/null; then
    says disk-full 1 "failed" "$W" run --config sweep.yaml --output-dir disk
    check disk-full-names-the-reason "the reason is not said:" grep -qi "no space\|full" says.err
    check disk-full-no-parts "half-written files are left:" sh -c '! find disk -name "*.part" | grep .'
    umount -l disk
    mkdir -p disk2 && mount -t tmpfs -o size=200k tmpfs disk2
    dd if=/dev/zero of=disk2/fill bs=1k 2>/dev/null
    says disk-full-at-start 2 "space" "$W" run --config sweep.yaml --output-dir disk2
    umount -l disk2
else
    skip disk-full "no tmpfs can be mounted"
fi
if [ "$(id -u)" = 0 ]; then
    says unwritable 2 "/proc/wanscope" "$W" run --config sweep.yaml --output-dir /proc/wanscope
else
    mkdir -p ro && chmod 555 ro
    says unwritable 2 "ro/sweep" "$W" run --config sweep.yaml --output-dir ro
fi
touch infile
says file-in-the-way 2 "infile" "$W" run --config sweep.yaml --output-dir infile
