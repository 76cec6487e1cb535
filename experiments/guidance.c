#include "experiments/guidance.h"

bool guidance_applies(config_cfg_skip mode, double ratio, int i, int n)
{
    int guided = (int)(n * ratio), plain = n - guided;
    double sum = 0;
    bool now = true;
    switch (mode) {
    case CFG_SKIP_EARLY: return i >= plain;
    case CFG_SKIP_LATE: return i < guided;
    case CFG_SKIP_EARLY_LATE: return i >= plain / 2 && i < plain / 2 + guided;
    case CFG_SKIP_MIDDLE: return !(i >= (n - plain) / 2 && i < (n - plain) / 2 + plain);
    case CFG_SKIP_ALTERNATE:
        for (int k = 0; k <= i; k++) {
            sum += ratio;
            now = sum >= 1;
            sum -= now;
        }
        return now;
    default: return true;
    }
}
