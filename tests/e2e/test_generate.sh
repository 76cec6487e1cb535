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
check generate-no-parts "half-written files are left:" sh -c '! find . -name "*.part" | grep .'
says generate-shots 2 "single-shot Wan videos" $G --save-path x.mp4 --shot-captions one
says generate-image 2 "condition a VACE model" $G --save-path x.mp4 --image-path p.png
says generate-no-prompt 2 "no prompt" "$W" generate --ckpt-dir "$MODEL" --save-path x.mp4
says generate-no-model 2 "no model" "$W" generate --prompt ca --save-path x.mp4
says generate-no-place 2 "no place for the video" "$W" generate --prompt ca --ckpt-dir "$MODEL"
says generate-one-expert 2 "give both" $G --save-path x.mp4 --dit-low-noise a
says generate-task 2 "the files hold one model" $G --save-path x.mp4 --task t2v-A14B
says generate-solver 2 "euler: this build has" $G --save-path x.mp4 --sample-solver euler
says generate-type 2 "expected video, images, latent or both" $G --save-path x.mp4 --output-type gif
says generate-seed 2 "expected a whole number" $G --save-path x.mp4 --seed abc
says generate-size 2 "video.height" "$W" generate --ckpt-dir "$MODEL" --prompt ca --video-size 33 48 --save-path x.mp4
says generate-two-values 2 "needs two values" "$W" generate --video-size 33
check generate-refusals-write-nothing "a refused command wrote a file:" test ! -e x.mp4
