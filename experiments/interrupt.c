#include "experiments/interrupt.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t pending;

static void on_signal(int number)
{
    static const char again[] = "\nstopped at once; 'wanscope run --resume' clears what is half written\n";
    (void)number;
    if (pending++) {
        ssize_t n = write(STDERR_FILENO, again, sizeof again - 1);
        (void)n;
        _exit(130);
    }
}

void interrupt_install(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    sigemptyset(&a.sa_mask);
    a.sa_flags = SA_RESTART;
    a.sa_handler = on_signal;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    struct sigaction before;
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN)      /* nohup keeps its meaning */
        sigaction(SIGHUP, &a, NULL);
    a.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &a, NULL);
    sigaction(SIGXFSZ, &a, NULL);
}

bool interrupt_pending(void)
{
    return pending != 0;
}

void interrupt_raise(void)
{
    pending = 1;
}

void interrupt_clear(void)
{
    pending = 0;
}

int interrupt_check(err *e)
{
    return pending ? ERR(e, ERR_CANCELLED, "interrupted") : 0;
}
