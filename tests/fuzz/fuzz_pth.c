#include "tests/fuzz/fuzz_ckpt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_ckpt(CKPT_PTH, data, size);
    return 0;
}
