/* wanscope: the one program of experiments/. Chooses the subcommand; everything else is theirs. */
#include <stdio.h>
#include <string.h>

#include "core/base/str.h"
#include "experiments/build_id.h"
#include "experiments/interrupt.h"

int cmd_run(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_expand(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_bench(int argc, char **argv);

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} COMMANDS[] = {
    { "run", cmd_run, "make a batch of videos and traces from a prompt template, or resume one" },
    { "plan", cmd_plan, "forecast a batch: runs, time, memory, disk" },
    { "generate", cmd_generate, "make one video from flags alone" },
    { "expand", cmd_expand, "list the variations of a template" },
    { "inspect", cmd_inspect, "say what a checkpoint file or folder holds" },
    { "compare", cmd_compare, "find the first difference of two traces or safetensors files" },
    { "convert", cmd_convert, "write a model with adapters merged, in another type, or 8-bit with scales" },
    { "bench", cmd_bench, "time the engine with random weights against what the hardware could do" },
};
enum { N_COMMANDS = sizeof COMMANDS / sizeof *COMMANDS };

static void usage(FILE *to)
{
    fputs("usage: wanscope COMMAND [options]\n\nRuns Wan video diffusion models and records what happens inside.\n\n", to);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", COMMANDS[i].name, COMMANDS[i].what);
    fputs("\n'wanscope COMMAND --help' describes one. First steps: wanscope run --config configs/default.yaml\n"
          "Exit status: 0 done, 1 some runs failed, 2 usage, settings or files, 3 device or memory, 130 interrupted.\n", to);
}

static int unknown(const char *word)
{
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++)
        names[i] = COMMANDS[i].name;
    const char *near = str_nearest(word, names, N_COMMANDS);
    if (strcmp(word, "serve") == 0)
        fprintf(stderr, "wanscope: '%s' is not part of this build; 'wanscope --help' lists the commands it has\n", word);
    else if (near)
        fprintf(stderr, "wanscope: unknown command '%s': did you mean '%s'? 'wanscope --help' lists the commands\n", word, near);
    else
        fprintf(stderr, "wanscope: unknown command '%s': 'wanscope --help' lists the commands\n", word);
    return 2;
}

int main(int argc, char **argv)
{
    interrupt_install();
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(word, "--version") == 0) {
        printf("wanscope %s (%s)\n", wanscope_version, wanscope_build);
        return 0;
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(word, COMMANDS[i].name) == 0)
            return COMMANDS[i].run(argc - 1, argv + 1);
    return unknown(word);
}
