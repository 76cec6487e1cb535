/* attention-export: cross-attention maps of one word as pictures, videos, arrays or tables. */
#include "analysis/lib/attention.h"

int main(int argc, char **argv)
{
    return attention_program(argc, argv);
}
