. tests/e2e/lib.sh

G="$W generate --ckpt-dir $MODEL --prompt ca --device cpu --video-size 32 48 --video-length 5 --infer-steps 2 --seed 3"
check generate "generate fails:" $G --save-path a.mp4
check generate-again "generate fails:" $G --save-path b.mp4
check generate-same "two videos of one seed differ:" cmp a.mp4 b.mp4
check generate-underscores "underscored flags fail:" "$W" generate --ckpt_dir "$MODEL" --prompt ca --device cpu --video_size 32 48 --video_length 5 --infer_steps 2 --seed 3 --save_path c.mp4 --sample_solver unipc --flow_shift 5 --guidance_scale 5
check generate-flags-same "the spelled-out defaults differ from the defaults:" cmp a.mp4 c.mp4
says generate-exists 2 "exists already" $G --save-path a.mp4
check generate-folder "a folder as --save-path fails:" sh -c "$G --save-path out | grep -q '^out/[0-9]*-[0-9]*_3.mp4'"
check generate-both "--output-type both fails:" sh -c "$G --save-path d.mp4 --output-type both | tr '\n' ' ' | grep -q 'd.mp4 d_latent.safetensors'"
check generate-latent-readable "the latent file is not readable:" "$W" inspect d_latent.safetensors
check generate-images "--output-type images fails:" sh -c "$G --save-path img --output-type images && test \$(ls img/*/frame/frame_00?.png | wc -l) = 5"
check generate-random-seed "a random seed fails:" sh -c "'$W' generate --ckpt-dir $MODEL --prompt ca --device cpu --video-size 32 48 --video-length 5 --infer-steps 1 --save-path r.mp4"
check generate-dpmpp "dpm++ fails:" $G --save-path e.mp4 --sample-solver dpm++
check generate-brackets-are-text "brackets in a prompt fail:" sh -c "'$W' generate --ckpt-dir $MODEL --prompt '[a|b] (c:2' --device cpu --video-size 32 48 --video-length 5 --infer-steps 1 --save-path f.mp4"
if command -v ffprobe >/dev/null 2>&1; then
    got=$(ffprobe -v error -count_frames -select_streams v -show_entries stream=width,height,r_frame_rate,nb_read_frames -of csv=p=0 a.mp4)
    if [ "$got" = "48,32,16/1,5" ]; then ok generate-ffprobe; else bad generate-ffprobe "expected 48,32,16/1,5, found $got"; fi
    $G --save-path g.mp4 --no-metadata >/dev/null 2>&1
    check generate-no-metadata "--no-metadata leaves metadata:" sh -c "! ffprobe -v error -show_entries format_tags=comment -of csv=p=0 g.mp4 | grep seed"
else
    skip generate-ffprobe "no ffprobe"
fi
printf '# two prompts\n\nca --d 3\n  dog, red --d 4 --w 32 --h 32 --f 9 --s 1 --g 2 --fs 3 --n a bad one\n' >prompts.txt
P="$W generate --ckpt-dir $MODEL --device cpu --video-size 32 48 --video-length 5 --infer-steps 2"
check from-file "--from-file fails:" $P --from-file prompts.txt --save-path many
check from-file-videos "there are not two videos:" sh -c "test \$(ls many/*.mp4 | wc -l) = 2"
check from-file-same "the first is not what --prompt makes:" sh -c "cmp a.mp4 many/*_001_3.mp4"
if command -v ffprobe >/dev/null 2>&1; then
    got=$(ffprobe -v error -count_frames -select_streams v -show_entries stream=width,height,nb_read_frames -of csv=p=0 many/*_002_4.mp4)
    if [ "$got" = "32,32,9" ]; then ok from-file-options; else bad from-file-options "expected 32,32,9, found $got"; fi
fi
printf 'ca\ndog --q 4\n' >bad.txt
says from-file-option 2 "bad.txt:2: unknown option --q" $P --from-file bad.txt --save-path many
printf 'ca --d\n' >bad.txt
says from-file-value 2 "bad.txt:1: --d needs a value" $P --from-file bad.txt --save-path many
printf '# nothing\n' >bad.txt
says from-file-empty 2 "no prompt in the file" $P --from-file bad.txt --save-path many
printf 'ca --w 33\n' >bad.txt
says from-file-line 2 "bad.txt:1" $P --from-file bad.txt --save-path many
says from-file-both 2 "prompts come from one of the two" $P --from-file prompts.txt --prompt a --save-path many
says from-file-place 2 "names one: give a folder" $P --from-file prompts.txt --save-path x.mp4
says from-file-missing 2 "nothere.txt" $P --from-file nothere.txt --save-path many
check preview "--preview fails:" $G --save-path pv/p.mp4 --preview 1 --preview-suffix x
check preview-file "there is no preview:" sh -c "ls pv/previews/latent_preview_x.*"
check preview-changes-nothing "a preview changes the video:" cmp a.mp4 pv/p.mp4
if command -v ffprobe >/dev/null 2>&1; then
    got=$(ffprobe -v error -count_frames -select_streams v -show_entries stream=width,height,r_frame_rate,nb_read_frames -of csv=p=0 pv/previews/latent_preview_x.mp4)
    if [ "$got" = "48,32,4/1,2" ]; then ok preview-ffprobe; else bad preview-ffprobe "expected 48,32,4/1,2, found $got"; fi
fi
says preview-number 2 "expected a number of steps from 1 to 1000" $G --save-path x.mp4 --preview often
says preview-suffix 2 "belongs to --preview N" $G --save-path x.mp4 --preview-suffix a
check slg "skip-layer guidance fails:" $G --save-path slg.mp4 --slg-layers 1 --slg-mode original --slg-end 1
check slg-acts "skip-layer guidance changes nothing:" sh -c '! cmp -s a.mp4 slg.mp4'
check slg-uncond "skip-layer guidance in the unconditional pass fails:" $G --save-path slg2.mp4 --slg-layers 1 --slg-mode uncond --slg-end 1
check slg-over "skip-layer guidance that is over before it begins fails:" $G --save-path slg3.mp4 --slg-layers 1 --slg-start 0.5 --slg-end 0.5
says slg-layer 2 "sampling.slg_layers names 2, but there are 2 transformer blocks" $G --save-path x.mp4 --slg-layers 2
says slg-all 2 "names all 2 transformer blocks" $G --save-path x.mp4 --slg-layers 0,1
check cfg-skip "skipped guidance fails:" $G --save-path skip.mp4 --cfg-skip-mode late --cfg-apply-ratio 0.5
check cfg-skip-acts "skipped guidance changes nothing:" sh -c '! cmp -s a.mp4 skip.mp4'
says cfg-skip-mode 2 "expected none, early, late, early_late, middle or alternate" $G --save-path x.mp4 --cfg-skip-mode often
L="$G --video-length 29 --use-context-windows"
check context-windows "context windows fail:" $L --context-length 13 --context-overlap 5 --save-path cw.mp4
check context-none "the long video fails without windows:" $G --video-length 29 --save-path long.mp4
check context-windows-act "context windows change nothing:" sh -c '! cmp -s long.mp4 cw.mp4'
check context-one "a window longer than the video fails:" $L --context-length 29 --context-overlap 5 --no-metadata --save-path one.mp4
check context-one-none "the video without windows and metadata fails:" $G --video-length 29 --no-metadata --save-path none.mp4
check context-one-same "one window over everything gives another video:" cmp one.mp4 none.mp4
for s in standard_uniform looped_uniform batched; do
    check context-$s "--context-schedule $s fails:" $L --context-length 13 --context-overlap 5 --context-schedule $s --context-stride 2 --context-closed-loop --save-path cw-$s.mp4
done
for f in flat overlap-linear relative; do
    check context-$f "--context-fuse-method $f fails:" $L --context-length 13 --context-overlap 5 --context-fuse-method $f --save-path cw-$f.mp4
    check context-$f-acts "--context-fuse-method $f gives the video of pyramid:" sh -c "! cmp -s cw.mp4 cw-$f.mp4"
done
check context-again "--from-video of context windows fails:" sh -c "command -v ffprobe >/dev/null || cp cw.mp4 cw2.mp4; [ -f cw2.mp4 ] || '$W' generate --ckpt-dir $MODEL --device cpu --from-video cw.mp4 --save-path cw2.mp4"
check context-again-same "the repeated video is another:" cmp cw.mp4 cw2.mp4
says context-overlap 2 "a window must be longer than what it shares with the next" $L --context-length 13 --context-overlap 20 --save-path x.mp4
says context-schedule 2 "expected standard_static, standard_uniform, looped_uniform or batched" $L --context-schedule often --save-path x.mp4
config long.yaml ca
says context-attention 2 "capture.attention.enabled and sampling.context_windows exclude each other for a video of 29 frames" "$W" run --config long.yaml --quiet \
    --frames 29 --set sampling.context_windows=true --set sampling.context_length=13 --set sampling.context_overlap=5 --batch-name context
if command -v ffprobe >/dev/null 2>&1; then
    check from-video-slg "--from-video of skip-layer guidance fails:" "$W" generate --ckpt-dir "$MODEL" --device cpu --from-video slg.mp4 --save-path slg-again.mp4
    check from-video-slg-same "the repeated video is another:" cmp slg.mp4 slg-again.mp4
    check from-video "--from-video fails:" "$W" generate --ckpt-dir "$MODEL" --device cpu --from-video a.mp4 --save-path again.mp4
    check from-video-same "the repeated video is another:" cmp a.mp4 again.mp4
    check from-video-options-win "an option beside --from-video fails:" "$W" generate --ckpt-dir "$MODEL" --device cpu --from-video a.mp4 --seed 4 --prompt other --save-path other.mp4
    check from-video-other "an option beside --from-video has no effect:" sh -c '! cmp -s a.mp4 other.mp4'
    check from-image "--from-video with a PNG fails:" sh -c "'$W' generate --ckpt-dir $MODEL --device cpu --from-video \$(ls img/*/frame/frame_000.png) --save-path png.mp4"
    check from-image-same "the video repeated from a PNG is another:" cmp a.mp4 png.mp4
    says from-video-bare 2 "it carries no parameters" "$W" generate --ckpt-dir "$MODEL" --from-video g.mp4 --save-path x.mp4
    says from-video-missing 2 "nothere.mp4" "$W" generate --ckpt-dir "$MODEL" --from-video nothere.mp4 --save-path x.mp4
else
    skip from-video "no ffmpeg"
fi
check generate-no-parts "half-written files are left:" sh -c '! find . -name "*.part" | grep .'
says generate-image 2 "condition a VACE model" $G --save-path x.mp4 --image-path p.png
says generate-no-prompt 2 "no prompt" "$W" generate --ckpt-dir "$MODEL" --save-path x.mp4
says generate-no-model 2 "no model" "$W" generate --prompt ca --save-path x.mp4
says generate-no-place 2 "no place for the video" "$W" generate --prompt ca --ckpt-dir "$MODEL"
says generate-one-expert 2 "give both" $G --save-path x.mp4 --dit-low-noise a
says generate-task 2 "the files hold one model" $G --save-path x.mp4 --task t2v-A14B
says generate-solver 2 "euler: this build has" $G --save-path x.mp4 --sample-solver euler
says generate-type 2 "expected video, images, latent or both" $G --save-path x.mp4 --output-type gif
says generate-seed 2 "expected a whole number" $G --save-path x.mp4 --seed abc
says generate-precision 2 "--precision f8: model.precision is 'f8'" $G --save-path x.mp4 --precision f8
says generate-solver-name 2 "--solver unipcc: sampling.solver is" $G --save-path x.mp4 --solver unipcc
says generate-size 2 "--video-size 33 48: video.height is 33" "$W" generate --ckpt-dir "$MODEL" --prompt ca --video-size 33 48 --save-path x.mp4
says generate-two-values 2 "needs two values" "$W" generate --video-size 33
check generate-refusals-write-nothing "a refused command wrote a file:" test ! -e x.mp4
