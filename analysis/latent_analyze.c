/* latent-analyze: measures the denoising paths of a batch. */
#include "analysis/lib/analyze.h"

int main(int argc, char **argv)
{
    return analyze_program(argc, argv);
}
