/* analyze: the program latent-analyze as a function, so that tests can call it. Returns the exit status: 0 all done, 1
 * some runs had to be left out (each with its reason), 2 bad usage or nothing to analyse, 3 memory. */
#ifndef WANSCOPE_ANALYZE_H
#define WANSCOPE_ANALYZE_H

int analyze_program(int argc, char **argv);

#endif
