#!/bin/sh
# Includes point one way: core <- experiments, core/base <- analysis; nothing outside core includes core's internals.
n=0
check() {   # description, files, forbidden include pattern
    n=$((n + 1))
    hits=$(grep -nE "#include \"($3)" $2 /dev/null 2>/dev/null)
    if [ -z "$hits" ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; echo "$hits"; fi
}
base=$(find core/base -name '*.[ch]')
core=$(find core \( -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' \))
check "core/base includes nothing above it" "$base" 'core/(tensor|backend|engine|io|text|dit|vae|sample|hooks|cpu|cuda)|experiments|analysis|tests'
check "core includes neither experiments nor analysis" "$core" 'experiments|analysis|tests'
if grep -lE '#include <(yaml|hdf5)' $core >/dev/null; then echo "not ok $((n + 1)) - core includes <yaml.h> or <hdf5.h>"; else echo "ok $((n + 1)) - core includes no <yaml.h> and no <hdf5.h>"; fi
n=$((n + 1))
check "analysis uses core/base only" "$(find analysis -name '*.[ch]')" 'core/(tensor|backend|engine|io|text|dit|vae|sample|hooks|cpu|cuda)|experiments|tests'
check "experiments does not include analysis" "$(find experiments -name '*.[ch]')" 'analysis|tests'
check "internals of core stay in core" "$(find experiments analysis -name '*.[ch]')" 'core/.*_internal\.h|core/cpu/'
